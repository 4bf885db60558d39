"""Data sets in parts: literal lists of data sets, unions of unlike kinds, and partitions inside shuffle files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from threefs.common.errors import Unsupported
from threefs.smallpond.common import DEFAULT_BATCH_SIZE, split_evenly
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.errors import QueryError
from threefs.smallpond.io import arrow as arrow_io
from threefs.smallpond.io import filesystem
from threefs.smallpond.logical.dataset.base import DataSet, digest
from threefs.smallpond.logical.dataset.memory import ArrowTableDataSet
from threefs.smallpond.logical.dataset.parquet import ParquetDataSet
from threefs.smallpond.shuffle import ShuffleFile, partition_reader


class PartitionedDataSet(DataSet):
    """One data set a partition: what a partition node's producer returns."""

    kind = "partitions"

    def __init__(self, datasets: Sequence[DataSet]) -> None:
        self.datasets = list(datasets)
        self.columns = None

    def part(self, index: int) -> DataSet:
        return self.datasets[index]

    def __getitem__(self, index: int) -> DataSet:
        return self.datasets[index]

    def __len__(self) -> int:
        return len(self.datasets)

    @property
    def num_rows(self) -> int:
        return sum(item.num_rows for item in self.datasets)

    @property
    def paths(self) -> list[str]:
        return [path for item in self.datasets for path in item.paths]

    @property
    def resolved_paths(self) -> list[str]:
        return [path for item in self.datasets for path in item.resolved_paths]

    def fingerprint(self) -> str:
        return digest("partitions", [item.fingerprint() for item in self.datasets])

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        return UnionDataSet(self.datasets).sql_query_fragment(filesystem, conn)


class ShuffleParts(DataSet):
    """One producer's shuffle file with all its partitions; as small as its name, however many there are."""

    kind = "shuffle file"

    def __init__(self, file: ShuffleFile, partition_column: str | None = None) -> None:
        self.file = file
        self.partition_column = partition_column
        self.columns = None

    def part(self, index: int) -> DataSet:
        return ShuffledDataSet([self.file], index, partition_column=self.partition_column)

    @property
    def num_rows(self) -> int:
        return self.file.rows

    @property
    def paths(self) -> list[str]:
        return [self.file.path]

    @property
    def resolved_paths(self) -> list[str]:
        return self.paths

    def fingerprint(self) -> str:
        info = filesystem.file_info(self.file.path)
        return digest("shuffle", info.path, info.size, info.version)

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        raise Unsupported("a shuffle file is read by partition")


class ShuffledDataSet(DataSet):
    """One partition out of the files of all producers of a shuffle."""

    kind = "shuffled partition"

    def __init__(
        self,
        files: Sequence[ShuffleFile],
        partition: int,
        columns: list[str] | None = None,
        partition_column: str | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        assert files, "a shuffle has a producer"
        self.rows = rows  # only rows begin … end - 1
        self.files = tuple(files)
        self.partition = partition
        self.columns = columns
        self.partition_column = partition_column  # added to every row: the partition's number

    def _reader(self) -> pa.RecordBatchReader:
        reader = partition_reader(self.files, self.partition)
        if self.rows is not None:
            reader = pa.RecordBatchReader.from_batches(reader.schema, between(reader, *self.rows))
        if self.partition_column is not None:
            reader = self._with_partition_column(reader, self.partition_column)
        if self.columns is None:
            return reader
        schema = pa.schema([reader.schema.field(name) for name in self.columns])
        return pa.RecordBatchReader.from_batches(schema, (batch.select(self.columns) for batch in reader))

    def _with_partition_column(self, reader: pa.RecordBatchReader, name: str) -> pa.RecordBatchReader:
        schema = reader.schema.append(pa.field(name, pa.int64()))

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                number = pa.repeat(pa.scalar(self.partition, pa.int64()), batch.num_rows)
                yield pa.RecordBatch.from_arrays([*batch.columns, number], schema=schema)

        return pa.RecordBatchReader.from_batches(schema, batches())

    @property
    def num_rows(self) -> int:
        if self.rows is not None:
            return self.rows[1] - self.rows[0]
        total = 0
        for file in self.files:
            with open(file.path, "rb") as opened:
                total += int(file.entries(opened.fileno(), self.partition, 1)["rows"].sum())
        return total

    @property
    def paths(self) -> list[str]:
        return [file.path for file in self.files]

    @property
    def resolved_paths(self) -> list[str]:
        return self.paths

    @property
    def estimated_bytes(self) -> int:
        total = sum(filesystem.file_info(file.path).size for file in self.files)
        return total // max(1, self.files[0].partitions)

    def fingerprint(self) -> str:
        infos = [filesystem.file_info(path) for path in self.paths]
        return digest("shuffled", self.partition, self.columns, self.rows, [(i.path, i.size, i.version) for i in infos])

    def schema(self) -> pa.Schema:
        return self._reader().schema

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        assert conn is not None, "a shuffled partition is known to SQL through a connection"
        name = f"__shuffled_{id(self):x}"
        conn.register(name, self.to_arrow_table())
        return f"SELECT * FROM {name}"

    def create_view(self, conn: engine.Connection, name: str) -> None:
        # Batches are views of mapped files: a table of them costs no copy, and can be scanned more than once.
        conn.register(name, self.to_arrow_table())

    def drop_view(self, conn: engine.Connection, name: str) -> None:
        conn.unregister(name)

    def to_arrow_table(
        self, max_workers: int = 16, filesystem: object = None, conn: engine.Connection | None = None
    ) -> pa.Table:
        return self._reader().read_all()

    def to_batch_reader(
        self, batch_size: int = DEFAULT_BATCH_SIZE, filesystem: object = None, conn: engine.Connection | None = None
    ) -> pa.RecordBatchReader:
        reader = self._reader()
        return pa.RecordBatchReader.from_batches(reader.schema, sliced(reader, batch_size))

    def select_columns(self, columns: Sequence[str]) -> DataSet:
        return ShuffledDataSet(self.files, self.partition, list(columns), self.partition_column, self.rows)

    def slice_rows(self, begin: int, end: int) -> ShuffledDataSet:
        first = self.rows[0] if self.rows is not None else 0
        found = (first + begin, first + end)
        return ShuffledDataSet(self.files, self.partition, self.columns, self.partition_column, found)

    def partition_by_files(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        """It lies in files that it shares with other partitions: dealt out by rows."""
        return self.partition_by_rows(npartition, random_shuffle)

    def partition_by_rows(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        return [self.slice_rows(begin, end) for begin, end in split_evenly(self.num_rows, npartition)]


class UnionDataSet(DataSet):
    """Rows of several data sets of unlike kinds, one after the other, matched by column name."""

    kind = "union"

    def __init__(self, parts: Sequence[DataSet]) -> None:
        assert parts, "a union has a part"
        self.parts = list(parts)
        self.columns = None

    @property
    def num_rows(self) -> int:
        return sum(part.num_rows for part in self.parts)

    @property
    def paths(self) -> list[str]:
        return [path for part in self.parts for path in part.paths]

    @property
    def resolved_paths(self) -> list[str]:
        return sorted({path for part in self.parts for path in part.resolved_paths})

    def fingerprint(self) -> str:
        return digest("union", [part.fingerprint() for part in self.parts])

    def schema(self) -> pa.Schema:
        return self.parts[0].schema()

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        return " UNION ALL BY NAME ".join(f"({part.sql_query_fragment(filesystem, conn)})" for part in self.parts)

    def create_view(self, conn: engine.Connection, name: str) -> None:
        for index, part in enumerate(self.parts):
            part.create_view(conn, f"{name}_{index}")
        union = " UNION ALL BY NAME ".join(f"SELECT * FROM {name}_{index}" for index in range(len(self.parts)))
        text = f"CREATE OR REPLACE TEMP VIEW {engine.quote_name(name)} AS {union}"
        with engine.errors_of(text, "joining the files of a partition"):
            engine.do(conn, text)

    def drop_view(self, conn: engine.Connection, name: str) -> None:
        super().drop_view(conn, name)
        for index, part in enumerate(self.parts):
            part.drop_view(conn, f"{name}_{index}")

    def to_batch_reader(
        self, batch_size: int = DEFAULT_BATCH_SIZE, filesystem: object = None, conn: engine.Connection | None = None
    ) -> pa.RecordBatchReader:
        readers = [part.to_batch_reader(batch_size) for part in self.parts]
        try:
            schema = pa.unify_schemas([reader.schema for reader in readers], promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as exc:
            raise QueryError(f"the parts of {self} have columns that do not fit together: {exc}") from exc

        def batches() -> Iterator[pa.RecordBatch]:
            for reader in readers:
                for batch in reader:
                    yield arrow_io.conform(batch, schema, str(self))

        return pa.RecordBatchReader.from_batches(schema, batches())

    def select_columns(self, columns: Sequence[str]) -> DataSet:
        return UnionDataSet([part.select_columns(columns) for part in self.parts])

    def partition_by_files(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        """Parts count as one file each when there are enough of them; else they are split by rows."""
        if len(self.parts) < npartition:
            return self.partition_by_rows(npartition, random_shuffle)
        return [UnionDataSet(self.parts[a:b]) for a, b in split_evenly(len(self.parts), npartition)]

    def partition_by_rows(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        counts = [part.num_rows for part in self.parts]
        result: list[DataSet] = []
        for begin, end in split_evenly(sum(counts), npartition):
            chosen: list[DataSet] = []
            start = 0
            for part, count in zip(self.parts, counts, strict=True):
                low, high = max(begin - start, 0), min(end - start, count)
                if low < high:
                    chosen.append(part if high - low == count else rows_of(part, low, high))
                start += count
            result.append(UnionDataSet(chosen or [rows_of(self.parts[0], 0, 0)]))
        return result


def rows_of(part: DataSet, low: int, high: int) -> DataSet:
    """Rows low … high - 1 of a data set, cut with its own means."""
    if isinstance(part, (ParquetDataSet, ShuffledDataSet)):
        return part.slice_rows(low, high)
    return ArrowTableDataSet(part.to_arrow_table().slice(low, high - low))


def between(batches: pa.RecordBatchReader, begin: int, end: int) -> Iterator[pa.RecordBatch]:
    """Rows begin … end - 1 of a stream."""
    at = 0
    for batch in batches:
        low, high = max(begin - at, 0), min(end - at, batch.num_rows)
        at += batch.num_rows
        if low < high:
            yield batch.slice(low, high - low)
        if at >= end:
            return


def sliced(batches: pa.RecordBatchReader, batch_size: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at most `batch_size`."""
    for batch in batches:
        for start in range(0, batch.num_rows, batch_size):
            yield batch.slice(start, batch_size)
