"""Parquet files or row ranges of them: the data set that nearly all work is made of.

Whole files are named by path alone; footers are read only when somebody asks for rows or ranges. A data set without
files keeps one file's name for its types, so that empty partitions stay typed.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

import pyarrow as pa

from threefs.smallpond.common import (
    DATA_PARTITION_COLUMN_NAME,
    DEFAULT_BATCH_SIZE,
    DEFAULT_ROW_GROUP_SIZE,
    PARQUET_METADATA_KEY_PREFIX,
)
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.errors import PlanError
from threefs.smallpond.io import arrow as arrow_io
from threefs.smallpond.io import filesystem
from threefs.smallpond.io.arrow import ParquetOptions, RowRange
from threefs.smallpond.logical.dataset.base import DataSet, FilesDataSet, digest

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")


class ParquetDataSet(FilesDataSet):
    """`columns` may hold SQL expressions; `generated_columns` adds `filename` or `file_row_number`."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".parq", ".pq")
    kind = "parquet"

    def __init__(
        self,
        paths: str | Iterable[str],
        root_dir: str | None = "",
        recursive: bool = False,
        columns: list[str] | None = None,
        generated_columns: list[str] | None = None,
        union_by_name: bool = False,
        hive_partitioning: bool = False,
    ) -> None:
        super().__init__(paths, root_dir, recursive, columns, union_by_name)
        self.generated_columns = list(generated_columns or [])
        self.hive_partitioning = hive_partitioning
        self._ranges: list[RowRange] | None = None  # set: these ranges; None: the whole files
        self._footers: list[RowRange] | None = None
        self._types_from: str | None = None  # a file with the columns' types, when there are no rows

    @classmethod
    def of_known(cls, ranges: Sequence[RowRange]) -> ParquetDataSet:
        """Whole files whose rows are known already: no footer is read again."""
        found = cls([item.path for item in ranges])
        found._resolved = list(found._paths)
        found._footers = list(ranges)
        return found

    def projected(
        self, columns: list[str] | None, generated_columns: list[str], union_by_name: bool | None
    ) -> ParquetDataSet:
        """The same rows under other reading options."""
        twin = self._twin(None)
        if columns is not None:
            twin.columns = list(columns)
        twin.generated_columns = [*self.generated_columns, *generated_columns]
        if union_by_name is not None:
            twin.union_by_name = union_by_name
        return twin

    @staticmethod
    def create_from(table: pa.Table, output_dir: str, filename: str = "data") -> ParquetDataSet:
        filesystem.make_directory(output_dir)
        path = f"{output_dir.rstrip('/')}/{filename}.parquet"
        arrow_io.write_parquet([table], table.schema, path, ParquetOptions())
        return ParquetDataSet([path])

    # ---- what it holds ----

    def reset(self, paths: list[str] | None = None, root_dir: str | None = "", recursive: bool = False) -> None:
        """Point it at other paths."""
        self.__init__(paths or [], root_dir, recursive, self.columns, self.generated_columns, self.union_by_name)  # type: ignore[misc]

    @property
    def resolved_row_ranges(self) -> list[RowRange]:
        if self._ranges is not None:
            return self._ranges
        if self._footers is None:
            self._footers = arrow_io.read_footers(self.resolved_paths)
        return self._footers

    @property
    def num_rows(self) -> int:
        return sum(item.num_rows for item in self.resolved_row_ranges)

    @property
    def empty(self) -> bool:
        return not self.resolved_paths or self.num_rows == 0

    @property
    def estimated_data_size(self) -> int:
        """Uncompressed bytes, from the footers."""
        return sum(item.estimated_data_size for item in self.resolved_row_ranges)

    def fingerprint(self) -> str:
        ranges = None if self._ranges is None else [(item.path, item.begin, item.end) for item in self._ranges]
        return digest(super().fingerprint(), ranges)

    def _reading(self) -> object:
        return (super()._reading(), self.generated_columns, self.hive_partitioning)

    def schema(self) -> pa.Schema:
        if self.columns is None and not self.generated_columns and not self.hive_partitioning and self._sample():
            return arrow_io.common_schema(self._files() or [self._sample()], None, union_by_name=self.union_by_name)
        return super().schema()

    def _files(self) -> list[str]:
        return [item.path for item in self._ranges] if self._ranges is not None else self.resolved_paths

    def _sample(self) -> str:
        """A file with the columns' types."""
        files = self._files()
        found = files[0] if files else self._types_from
        if found is None:
            raise PlanError("an empty list of parquet files has no columns: give at least one path")
        return found

    # ---- reading ----

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        whole = [item.path for item in self._ranges if item.whole] if self._ranges is not None else self.resolved_paths
        parts = [self._select(whole)] if whole else []
        parts += [self._select([item.path], item) for item in self._ranges or [] if not item.whole]
        if not parts:
            return f"{self._select([self._sample()])} LIMIT 0"
        return parts[0] if len(parts) == 1 else " UNION ALL BY NAME ".join(parts)

    def _select(self, files: Sequence[str], item: RowRange | None = None) -> str:
        options = [f"hive_partitioning = {str(self.hive_partitioning).lower()}"]
        if self.union_by_name:
            options.append("union_by_name = true")
        if "filename" in self.generated_columns:
            options.append("filename = true")
        numbered = "file_row_number" in self.generated_columns
        if numbered or item is not None:
            options.append("file_row_number = true")
        listed = ", ".join(engine.quote(path) for path in files)
        source = f"read_parquet([{listed}], {', '.join(options)})"
        chosen = "*" if item is None or numbered else "* EXCLUDE (file_row_number)"
        if self.columns is not None:
            names = [*self.columns, *(name for name in self.generated_columns if name not in self.columns)]
            chosen = ", ".join(map(_column_sql, names)) or "1 AS __none"
        where = "" if item is None else f" WHERE file_row_number >= {item.begin} AND file_row_number < {item.end}"
        return f"SELECT {chosen} FROM {source}{where}"

    def create_view(self, conn: engine.Connection, name: str) -> None:
        engine.register_filesystem_of(conn, self._sample())
        super().create_view(conn, name)

    @property
    def _arrow_can_read(self) -> bool:
        plain = self.columns is None or all(_PLAIN_NAME.match(name) for name in self.columns)
        return plain and not self.generated_columns and not self.hive_partitioning

    def to_batch_reader(
        self, batch_size: int = DEFAULT_BATCH_SIZE, filesystem: object = None, conn: engine.Connection | None = None
    ) -> pa.RecordBatchReader:
        if not self._arrow_can_read or conn is not None:
            return super().to_batch_reader(batch_size, filesystem, conn)
        if not self._files():
            schema = arrow_io.common_schema([self._sample()], self.columns, union_by_name=False)
            return pa.RecordBatchReader.from_batches(schema, [])
        return arrow_io.build_batch_reader_from_files(
            self.resolved_row_ranges, columns=self.columns, batch_size=batch_size, union_by_name=self.union_by_name
        )

    def select_columns(self, columns: Sequence[str]) -> DataSet:
        if self.generated_columns:
            return self
        known = {_alias(column): column for column in self.columns} if self.columns is not None else {}
        twin = self._twin(self._ranges)
        twin.columns = [known.get(name, name) for name in columns]
        return twin

    # ---- dealing out ----

    def _twin(self, ranges: Sequence[RowRange] | None) -> ParquetDataSet:
        """The same reading options over these ranges (None: over the same whole files)."""
        twin = ParquetDataSet.__new__(ParquetDataSet)
        twin.__dict__.update(self.__dict__)
        if ranges is not None:
            twin._ranges = list(ranges)
            twin._paths = twin._resolved = list(dict.fromkeys(item.path for item in ranges))
            twin._footers = None
            twin._types_from = self._sample()
        return twin

    def _part(self, files: list[str]) -> DataSet:
        twin = self._twin(None)
        twin._types_from = self._sample()
        twin._paths = twin._resolved = files
        twin._footers = None
        return twin

    def partition_by_files(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        if self._ranges is None:
            return super().partition_by_files(npartition, random_shuffle)
        by_file: dict[str, list[RowRange]] = defaultdict(list)
        for item in self._ranges:
            by_file[item.path].append(item)
        parts = super().partition_by_files(npartition, random_shuffle)
        return [self._twin([item for path in part.paths for item in by_file[path]]) for part in parts]

    def partition_by_rows(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        ranges = list(self.resolved_row_ranges)
        if random_shuffle:
            ranges = [piece for item in ranges for piece in _pieces(item)]
            random.Random(len(ranges)).shuffle(ranges)
        return [self._twin(part) for part in RowRange.partition_by_rows(ranges, npartition)]

    @property
    def single_whole_file(self) -> str | None:
        """The file's path if the rows are exactly those of one file, unchanged."""
        plain = self.columns is None and not self.generated_columns and not self.hive_partitioning
        if not plain or len(self._files()) != 1:
            return None
        return self._files()[0] if self._ranges is None or self._ranges[0].whole else None

    def by_file(self) -> list[ParquetDataSet]:
        """One data set a file (or range); the empty one stays one."""
        if self._ranges is not None:
            return [self._twin([item]) for item in self._ranges] or [self]
        parts = [self._twin(None) for _ in self.resolved_paths]
        for part, path in zip(parts, self.resolved_paths, strict=True):
            part._paths, part._resolved, part._footers = [path], [path], None
        return parts or [self]

    def slice_rows(self, begin: int, end: int) -> ParquetDataSet:
        """Rows begin … end - 1, counted over all files."""
        ranges, start = [], 0
        for item in self.resolved_row_ranges:
            low, high = max(begin - start, 0), min(end - start, item.num_rows)
            if low < high:
                ranges.append(replace(item, begin=item.begin + low, end=item.begin + high))
            start += item.num_rows
        return self._twin(ranges)

    @staticmethod
    def joined(parts: Sequence[ParquetDataSet]) -> ParquetDataSet:
        """The rows of several, which read with the same options, in order; no footer is read for whole files."""
        first = parts[0]
        if any(part._ranges is not None for part in parts):
            return first._twin([item for part in parts for item in part.resolved_row_ranges])
        twin = first._twin(None)
        twin._types_from = next((part._sample() for part in parts if part._files() or part._types_from), None)
        twin._paths = twin._resolved = [path for part in parts for path in part.resolved_paths]
        footers = [part._footers for part in parts]
        twin._footers = None if None in footers else [item for found in footers for item in found or []]
        return twin

    def partition_by_size(self, max_partition_size: int) -> list[DataSet]:
        """As many parts as keep each at or below `max_partition_size` uncompressed bytes."""
        size = self.estimated_data_size
        return self.partition_by_rows(max(1, -(-size // max_partition_size))) if size else [self]

    def remove_empty_files(self) -> None:
        kept = [item for item in self.resolved_row_ranges if item.num_rows]
        self.__dict__.update(self._twin(kept).__dict__)

    def load_partitioned_datasets(
        self, npartition: int, data_partition_column: str, hive_partitioning: bool = False
    ) -> list[DataSet]:
        """Re-attach what an earlier job partitioned: by the files' metadata, else their `column=value` folders, else
        the single value of the column in each file. PlanError for a file that says nothing or too much."""
        found: list[list[str]] = [[] for _ in range(npartition)]
        for path in self.resolved_paths:
            index = _partition_of_file(path, data_partition_column, hive_partitioning)
            if not 0 <= index < npartition:
                raise PlanError(f"{path} belongs to partition {index}, but there are {npartition}: 0-{npartition - 1}")
            found[index].append(path)
        return [self._part(paths) for paths in found]


def _partition_of_file(path: str, column: str, hive: bool) -> int:
    with arrow_io.open_parquet(path) as file:
        metadata = file.metadata.metadata or {}
        for name in (column, DATA_PARTITION_COLUMN_NAME):
            known = metadata.get(f"{PARQUET_METADATA_KEY_PREFIX}{name}".encode())
            if known is not None:
                return int(known)
        found = re.search(rf"(?:^|/){re.escape(column)}=([^/]+)/", path)
        if found:
            return int(found[1])
        if hive or column not in file.schema_arrow.names:
            raise PlanError(f"{path} says nowhere which partition it is: no metadata, no {column}= folder, no column")
        values = {
            value for batch in file.iter_batches(columns=[column]) for value in batch.column(0).unique().to_pylist()
        }
    if len(values) != 1:
        raise PlanError(f"{path} holds {len(values)} values of {column}: exactly one makes a partition")
    return int(values.pop())


def _pieces(item: RowRange) -> list[RowRange]:
    """The range cut at row-group size, so that shuffling has something to shuffle."""
    parts = max(1, item.num_rows // DEFAULT_ROW_GROUP_SIZE)
    return [piece for part in RowRange.partition_by_rows([item], parts) for piece in part]


def _column_sql(column: str) -> str:
    return engine.quote_name(column) if _PLAIN_NAME.match(column) else column


def _alias(column: str) -> str:
    """The name that an expression has in the result: what stands after its last `as`."""
    found = re.search(r"\bas\s+(\"[^\"]+\"|\w+)\s*$", column, re.IGNORECASE)
    return found[1].strip('"') if found else column
