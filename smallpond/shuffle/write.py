"""Writing a shuffle file: batches in, rounds of partitions out. A producer task calls `write_shuffle` once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from threefs.common.errors import UserError
from threefs.smallpond.shuffle.columns import Scratch
from threefs.smallpond.shuffle.layout import ENTRY, Entries, ShuffleFile
from threefs.smallpond.shuffle.partitioners import Partitioner
from threefs.smallpond.shuffle.scatter import scattered

Compression = Literal["none", "lz4", "zstd"]
ROUND_SHARE: Final = 4  # a round, its scattered form, what the reader prepares and what the writer holds
ROUND_BYTES_MIN: Final = 64 << 20  # larger rounds make longer reads only where there are many partitions
ROUND_BYTES_MAX: Final = 1 << 30  # rows of a round are counted in 32 bits, strings of a partition in 31
PIECE_ROWS: Final = 128 << 10  # what a thread takes at a time: its owners and places stay in the cache
WRITE_BYTES: Final = 4 << 20  # what one write call carries


def write_shuffle(
    source: pa.RecordBatchReader,
    path: str | Path,
    by: Partitioner,
    *,
    compression: Compression = "none",
    memory_bytes: int = 1 << 30,
    threads: int = 1,
    drop: Sequence[str] = (),
) -> ShuffleFile:
    """Writes all rows of `source` to one new file, grouped by partition; returns what consumers need to find them.

    Rows are taken in rounds of about a MiB a partition, at most a quarter of `memory_bytes`; within a partition they
    keep their order. Each round is written out before the next begins, so that any input fits. `threads` partition at
    the same time.
    Columns named in `drop` decide the partition but are not written. Dictionary columns are written as their values.
    `compression` is that of the Arrow buffers; only "none" is read without a copy. After a failure no file is left.
    """
    codecs = {"none": None, "lz4": "lz4", "zstd": "zstd"}
    if compression not in codecs:
        raise UserError(f"unknown compression {compression!r}", "choose none, lz4 or zstd")
    schema = written_schema(source.schema, drop)
    options = pa.ipc.IpcWriteOptions(compression=codecs[compression], use_threads=threads > 1)
    target = Path(path)
    round_bytes = min(memory_bytes // ROUND_SHARE, max(ROUND_BYTES_MIN, by.partitions << 20), ROUND_BYTES_MAX)
    try:
        with (
            pa.output_stream(str(target), compression=None, buffer_size=WRITE_BYTES) as sink,
            ThreadPoolExecutor(threads) as pool,
        ):
            scatter = partial(scattered, by=by, schema=schema, pool=pool, scratch=Scratch())
            index, schema_bytes = _write(
                sink, schema, options, map(scatter, rounds_of(source, round_bytes)), by.partitions
            )
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    index_offset = target.stat().st_size - index.nbytes
    return ShuffleFile(str(target), by.partitions, index.shape[1], int(index["rows"].sum()), schema_bytes, index_offset)


def _write(
    sink: pa.NativeFile,
    schema: pa.Schema,
    options: pa.ipc.IpcWriteOptions,
    rounds: Iterator[Iterable[tuple[int, pa.RecordBatch]]],
    partitions: int,
) -> tuple[Entries, int]:
    """Writes the stream and the index; returns the index, and the length of the schema message."""
    found: list[Entries] = []
    schema_bytes = schema.serialize().size  # written with the first batch
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for parts in rounds:
            entries = np.zeros(partitions, ENTRY)
            for partition, batch in parts:
                begin = max(sink.tell(), schema_bytes)
                writer.write_batch(batch)
                entries[partition] = (begin, sink.tell() - begin, batch.num_rows)
            found.append(entries)
    index = np.stack(found, axis=1) if found else np.zeros((partitions, 0), ENTRY)
    sink.write(index.tobytes())
    return index, schema_bytes


def written_schema(schema: pa.Schema, drop: Sequence[str]) -> pa.Schema:
    """The schema of the file: without the dropped columns, dictionaries as their values."""
    missing = [name for name in drop if name not in schema.names]
    if missing:
        raise UserError(f"no column {missing[0]!r} to drop", f"the columns are: {', '.join(schema.names)}")
    fields = [item.with_type(_written_type(item.type)) for item in schema if item.name not in drop]
    return pa.schema(fields, schema.metadata)


def _written_type(kind: pa.DataType) -> pa.DataType:
    """Every batch must be readable alone and hold its own bytes only: no shared dictionary, no views."""
    if pa.types.is_dictionary(kind):
        return _written_type(kind.value_type)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def rounds_of(source: Iterable[pa.RecordBatch], round_bytes: int) -> Iterator[list[tuple[int, pa.RecordBatch]]]:
    """Numbered pieces of the batches, gathered until they have `round_bytes`."""
    found: list[tuple[int, pa.RecordBatch]] = []
    size = 0
    for numbered in enumerate(pieces_of(source)):
        found.append(numbered)
        size += numbered[1].nbytes
        if size >= round_bytes:
            yield found
            found, size = [], 0
    if found:
        yield found


def pieces_of(source: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in source:
        for start in range(0, batch.num_rows, PIECE_ROWS):
            yield batch.slice(start, PIECE_ROWS)
