"""Writing a shuffle file: batches in, rounds of partitions out. A producer task calls `write_shuffle` once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from threefs.common.errors import UserError
from threefs.smallpond.shuffle.layout import END_OF_STREAM, ENTRY, Entries, ShuffleFile
from threefs.smallpond.shuffle.partitioners import Partitioner

Compression = Literal["none", "lz4", "zstd"]
ROUND_SHARE: Final = 4  # a round, its scattered form, what the reader prepares and what the writer holds
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

    Rows are taken in rounds of about a quarter of `memory_bytes`; within a partition they keep their order. Each
    round is written out before the next begins, so that any input fits. `threads` partition at the same time.
    Columns named in `drop` decide the partition but are not written. Dictionary columns are written as their values.
    `compression` is that of the Arrow buffers; only "none" is read without a copy. After a failure no file is left.
    """
    codecs = {"none": None, "lz4": "lz4", "zstd": "zstd"}
    if compression not in codecs:
        raise UserError(f"unknown compression {compression!r}", "choose none, lz4 or zstd")
    schema = written_schema(source.schema, drop)
    options = pa.ipc.IpcWriteOptions(compression=codecs[compression], use_threads=threads > 1)
    target = Path(path)
    try:
        with pa.output_stream(str(target), compression=None, buffer_size=WRITE_BYTES) as sink:
            return _write(source, sink, target, by, schema, options, memory_bytes // ROUND_SHARE)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _write(
    source: pa.RecordBatchReader,
    sink: pa.NativeFile,
    path: Path,
    by: Partitioner,
    schema: pa.Schema,
    options: pa.ipc.IpcWriteOptions,
    round_bytes: int,
) -> ShuffleFile:
    rounds: list[Entries] = []
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        schema_bytes = schema.serialize().size  # written with the first batch
        for batches in rounds_of(source, round_bytes):
            entries = np.zeros(by.partitions, ENTRY)
            for partition, batch in _partitioned(batches, by, schema):
                begin = max(sink.tell(), schema_bytes)
                writer.write_batch(batch)
                entries[partition] = (begin, sink.tell() - begin, batch.num_rows)
            rounds.append(entries)
    index = np.stack(rounds, axis=1) if rounds else np.zeros((by.partitions, 0), ENTRY)
    index_offset = sink.tell()
    sink.write(index.tobytes())
    assert schema_bytes + len(END_OF_STREAM) <= index_offset
    return ShuffleFile(str(path), by.partitions, len(rounds), int(index["rows"].sum()), schema_bytes, index_offset)


def written_schema(schema: pa.Schema, drop: Sequence[str]) -> pa.Schema:
    """The schema of the file: without the dropped columns, dictionaries as their values."""
    missing = [name for name in drop if name not in schema.names]
    if missing:
        raise UserError(f"no column {missing[0]!r} to drop", f"the columns are: {', '.join(schema.names)}")
    fields = [
        item.with_type(item.type.value_type) if pa.types.is_dictionary(item.type) else item
        for item in schema
        if item.name not in drop
    ]
    return pa.schema(fields, schema.metadata)


def rounds_of(source: pa.RecordBatchReader, round_bytes: int) -> Iterator[list[pa.RecordBatch]]:
    """Batches with rows, gathered until they have `round_bytes`."""
    found: list[pa.RecordBatch] = []
    size = 0
    for batch in source:
        if batch.num_rows:
            found.append(batch)
            size += batch.nbytes
        if size >= round_bytes:
            yield found
            found, size = [], 0
    if found:
        yield found


def _partitioned(
    batches: list[pa.RecordBatch], by: Partitioner, schema: pa.Schema
) -> Iterator[tuple[int, pa.RecordBatch]]:
    owners = np.concatenate([by.owners(batch) for batch in batches])
    table = pa.Table.from_batches(batches).select(schema.names).cast(schema)
    ordered = table.take(pa.array(np.argsort(owners, kind="stable"))).combine_chunks()
    counts = np.bincount(owners, minlength=by.partitions)
    starts = np.cumsum(counts) - counts
    for partition in np.flatnonzero(counts):
        part = ordered.slice(int(starts[partition]), int(counts[partition]))
        yield int(partition), part.to_batches()[0]
