"""Parquet as Arrow: row ranges of files, batch readers over many files, writers with smallpond's metadata.

Data sets and operators read and write parquet only through this module (SQL tasks let DuckDB read the files itself).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from threefs.smallpond.common import DEFAULT_BATCH_SIZE, DEFAULT_ROW_GROUP_SIZE, split_evenly
from threefs.smallpond.errors import QueryError
from threefs.smallpond.io import filesystem

if TYPE_CHECKING:
    import pyarrow.parquet as pq  # and in the functions: with its file systems it is a tenth of a session's start

FOOTER_THREADS = 16


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows begin … end - 1 of a parquet file of `file_num_rows` rows."""

    path: str
    data_size: int  # uncompressed bytes of the whole file
    file_num_rows: int
    begin: int
    end: int

    @property
    def num_rows(self) -> int:
        return self.end - self.begin

    @property
    def whole(self) -> bool:
        return self.begin == 0 and self.end == self.file_num_rows

    @property
    def estimated_data_size(self) -> int:
        return self.data_size * self.num_rows // max(1, self.file_num_rows)

    def take(self, num_rows: int) -> RowRange:
        return replace(self, end=min(self.end, self.begin + num_rows))

    @staticmethod
    def partition_by_rows(row_ranges: Sequence[RowRange], npartition: int) -> list[list[RowRange]]:
        """Cut the rows of all ranges into `npartition` contiguous parts whose sizes differ by at most one."""
        starts, total = [], 0
        for item in row_ranges:
            starts.append(total)
            total += item.num_rows
        parts: list[list[RowRange]] = []
        at = 0
        for begin, end in split_evenly(total, npartition):
            part: list[RowRange] = []
            while at < len(row_ranges) and starts[at] < end:
                item, start = row_ranges[at], starts[at]
                low, high = max(begin, start), min(end, start + item.num_rows)
                if low < high:
                    part.append(replace(item, begin=item.begin + low - start, end=item.begin + high - start))
                if start + item.num_rows > end:
                    break  # the rest of this range belongs to the next part
                at += 1
            parts.append(part)
        return parts


def open_parquet(path: str) -> pq.ParquetFile:
    """A parquet file by path or URL; an unreadable one is named."""
    import pyarrow.parquet as pq

    try:
        if filesystem.protocol_of(path):
            return pq.ParquetFile(filesystem.open_file(path))
        return pq.ParquetFile(filesystem.local_path(path), memory_map=True)
    except pa.ArrowInvalid as exc:
        raise QueryError(f"{path} is no readable parquet file: {exc}") from exc


def read_footers(paths: Sequence[str]) -> list[RowRange]:
    """One whole-file range for each path, from the footers alone."""

    def read(path: str) -> RowRange:
        with open_parquet(path) as file:
            meta = file.metadata
            size = sum(meta.row_group(index).total_byte_size for index in range(meta.num_row_groups))
            return RowRange(path, size, meta.num_rows, 0, meta.num_rows)

    if len(paths) < 2:
        return [read(path) for path in paths]
    with ThreadPoolExecutor(min(FOOTER_THREADS, len(paths))) as pool:
        return list(pool.map(read, paths))


def read_schema(path: str) -> pa.Schema:
    with open_parquet(path) as file:
        return file.schema_arrow


def _whole(path_or_range: str | RowRange) -> RowRange:
    return path_or_range if isinstance(path_or_range, RowRange) else read_footers([path_or_range])[0]


def iter_range(item: RowRange, columns: Sequence[str] | None, batch_size: int) -> Iterator[pa.RecordBatch]:
    """The batches of one range; row groups outside of it are not read."""
    with open_parquet(item.path) as file:
        start = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            low, high = max(item.begin - start, 0), min(item.end - start, count)
            start += count
            if low < high:
                yield from _iter_group(file, group, columns, batch_size, low, high)


def _iter_group(
    file: pq.ParquetFile, group: int, columns: Sequence[str] | None, batch_size: int, low: int, high: int
) -> Iterator[pa.RecordBatch]:
    at = 0
    for batch in file.iter_batches(batch_size, row_groups=[group], columns=columns):
        first, last = max(low - at, 0), min(high - at, batch.num_rows)
        at += batch.num_rows
        if first < last:
            yield batch.slice(first, last - first)
        if at >= high:
            return


def build_batch_reader_from_files(
    paths_or_ranges: Sequence[str | RowRange],
    *,
    columns: Sequence[str] | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    union_by_name: bool = False,
) -> pa.RecordBatchReader:
    """All rows, file after file, in batches of at most `batch_size` rows, under the first file's schema."""
    ranges = [_whole(item) for item in paths_or_ranges]
    schema = common_schema([item.path for item in ranges], columns, union_by_name=union_by_name)

    def batches() -> Iterator[pa.RecordBatch]:
        for item in ranges:
            wanted = columns if columns is not None else (None if union_by_name else schema.names)
            for batch in iter_range(item, wanted, batch_size):
                yield conform(batch, schema, item.path)

    return pa.RecordBatchReader.from_batches(schema, batches())


def common_schema(paths: Sequence[str], columns: Sequence[str] | None, *, union_by_name: bool) -> pa.Schema:
    """The first file's schema, or with `union_by_name` all files' together; QueryError if a column is missing."""
    assert paths, "a schema needs a file"
    if union_by_name:
        schema = pa.unify_schemas([read_schema(path) for path in paths], promote_options="permissive")
    else:
        schema = read_schema(paths[0])
    if columns is None:
        return schema
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise QueryError(f"{paths[0]} has no column {missing[0]!r}; its columns are {', '.join(schema.names)}")
    return pa.schema([schema.field(name) for name in columns], schema.metadata)


def conform(batch: pa.RecordBatch, schema: pa.Schema, path: str) -> pa.RecordBatch:
    """The batch under `schema`: columns by name, missing ones null, types cast where that loses nothing."""
    if batch.schema.equals(schema):
        return batch
    try:
        arrays = [
            batch.column(field.name).cast(field.type)
            if field.name in batch.schema.names
            else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise QueryError(f"{path} has other types than the files before it: {exc}") from exc
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def load_from_parquet_files(
    paths_or_ranges: Sequence[str | RowRange], columns: Sequence[str] | None = None, *, union_by_name: bool = False
) -> pa.Table:
    reader = build_batch_reader_from_files(paths_or_ranges, columns=columns, union_by_name=union_by_name)
    return reader.read_all()


def rebatch(batches: Iterable[pa.RecordBatch], batch_size: int, schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `batch_size` rows, the last one excepted; batches cross file borders."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        while rows >= batch_size:
            table = pa.Table.from_batches(held, schema)
            yield table.slice(0, batch_size)
            rest = table.slice(batch_size)
            held, rows = rest.to_batches(), rest.num_rows
    if rows:
        yield pa.Table.from_batches(held, schema)


@dataclass(frozen=True, slots=True)
class ParquetOptions:
    """How results are written. zstd's first level: a third of the time of level 3 for a few per cent of size."""

    row_group_size: int = DEFAULT_ROW_GROUP_SIZE
    dictionary_encoding: bool = False
    compression: str = "ZSTD"
    compression_level: int | None = 1

    def writer_arguments(self) -> dict[str, Any]:
        codec = self.compression.lower()
        level = self.compression_level if codec in ("zstd", "gzip", "brotli") else None
        return {
            "compression": None if codec in ("none", "uncompressed") else codec,
            "compression_level": level,
            "use_dictionary": self.dictionary_encoding,
            "write_page_index": False,
        }


def write_parquet(
    batches: Iterable[pa.RecordBatch | pa.Table],
    schema: pa.Schema,
    path: str,
    options: ParquetOptions,
    metadata: dict[str, str] | None = None,
) -> int:
    """Write one parquet file with key-value metadata; returns its rows. After a failure the file is removed."""
    import pyarrow.parquet as pq

    kept = {k: v for k, v in (schema.metadata or {}).items() if not k.startswith(b"SMALLPOND:")}
    typed = schema.with_metadata({**kept, **{k.encode(): v.encode() for k, v in (metadata or {}).items()}} or None)
    rows = 0
    try:
        with _open_sink(path) as sink, pq.ParquetWriter(sink, typed, **options.writer_arguments()) as writer:
            for batch in batches:
                table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
                writer.write_table(table.replace_schema_metadata(typed.metadata), row_group_size=options.row_group_size)
                rows += table.num_rows
    except BaseException:
        filesystem.remove_path(path)
        raise
    return rows


def _open_sink(path: str) -> IO[bytes] | pa.NativeFile:
    if filesystem.protocol_of(path):
        return filesystem.open_file(path, "wb")
    return pa.OSFile(filesystem.local_path(path), "wb")


def to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream: only the rows of its slice."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def convert_type_to_large(kind: pa.DataType) -> pa.DataType:
    """string and binary with 64-bit offsets, at any depth."""
    if kind == pa.string():
        return pa.large_string()
    if kind == pa.binary():
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.large_list(convert_type_to_large(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(convert_type_to_large(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(convert_type_to_large(kind.key_type), convert_type_to_large(kind.item_type))
    return kind


def cast_columns_to_large_string(table: pa.Table) -> pa.Table:
    fields = [field.with_type(convert_type_to_large(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))
