"""Reading one partition out of all producers' files. A consumer task calls this once for each of its inputs.

Files are mapped, so that uncompressed batches are views of the page cache: nothing is copied until somebody computes.
On file systems that cannot map, the pieces are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from threefs.common.errors import Corrupt, UserError
from threefs.smallpond.shuffle.layout import Entries, ShuffleFile


def read_partition(files: Sequence[ShuffleFile], partition: int) -> pa.Table:
    """The rows of one partition: producer after producer, each in its order. A table without rows if there are none."""
    return partition_reader(files, partition).read_all()


def partition_reader(files: Sequence[ShuffleFile], partition: int) -> pa.RecordBatchReader:
    """The same batch by batch, for consumers that do not need all rows at once."""
    if not files:
        raise UserError("a partition of no files has no schema", "give the descriptors of all producers")
    schema = _schema(files[0])
    return pa.RecordBatchReader.from_batches(schema, _batches(files, partition, schema))


def partition_rows(files: Sequence[ShuffleFile]) -> npt.NDArray[np.uint64]:
    """The rows of every partition over all files: for planning, and to see skew."""
    total = np.zeros(files[0].partitions, np.uint64)
    for file in files:
        with open(file.path, "rb") as opened:
            total += file.entries(opened.fileno())["rows"].sum(axis=1)
    return total


def _batches(files: Sequence[ShuffleFile], partition: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for file in files:
        with open(file.path, "rb") as opened:
            entries = file.entries(opened.fileno(), partition, 1)[0]
            entries = entries[entries["rows"] > 0]
            if not len(entries):
                continue
            found = _message_schema(file, opened.fileno())
            if not found.equals(schema):
                raise UserError(
                    f"{file.path} has other columns than {files[0].path}: {found} instead of {schema}",
                    "cast the inputs to one schema before they are shuffled",
                )
            yield from _messages(file, opened.fileno(), entries, schema)


def _messages(file: ShuffleFile, descriptor: int, entries: Entries, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    mapped = _map(file.path)
    for entry in entries:
        offset, size, rows = (int(value) for value in entry)
        if mapped is not None:
            mapped.seek(offset)
            raw = mapped.read_buffer(size)
        else:
            raw = pa.py_buffer(os.pread(descriptor, size, offset))
        batch = pa.ipc.read_record_batch(raw, schema) if raw.size == size else None
        if batch is None or batch.num_rows != rows:
            raise Corrupt(f"{file.path} has no batch of {rows} rows at {offset}: it was changed or cut")
        yield batch


def _map(path: str) -> pa.MemoryMappedFile | None:
    try:
        return pa.memory_map(path)
    except OSError:  # a mount whose files bypass the page cache
        return None


def _schema(file: ShuffleFile) -> pa.Schema:
    with open(file.path, "rb") as opened:
        return _message_schema(file, opened.fileno())


def _message_schema(file: ShuffleFile, descriptor: int) -> pa.Schema:
    raw = os.pread(descriptor, file.schema_bytes, 0)
    if len(raw) != file.schema_bytes:
        raise Corrupt(f"{file.path} ends within its schema")
    return pa.ipc.read_schema(pa.py_buffer(raw))
