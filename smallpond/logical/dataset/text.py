"""CSV and JSON files, read by DuckDB under a schema (name -> DuckDB type), or with types that DuckDB infers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from threefs.smallpond.common import GB
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.logical.dataset.base import DataSet, FilesDataSet


class TextDataSet(FilesDataSet):
    """What CSV and JSON share: counting by a query, columns by name."""

    schema_types: dict[str, str] | None

    @property
    def num_rows(self) -> int:
        if not self.resolved_paths:
            return 0
        with engine.scratch() as connection:
            engine.register_filesystem_of(connection, self.resolved_paths[0])
            row = engine.first_row(connection, f"SELECT count(*) FROM ({self.sql_query_fragment()})")
        return int(row[0])

    def _reading(self) -> object:
        return (super()._reading(), sorted((self.schema_types or {}).items()))

    def select_columns(self, columns: Sequence[str]) -> DataSet:
        twin = self.with_paths(self.resolved_paths)
        twin.columns = list(columns)
        return twin

    def _select(self, reader: str) -> str:
        if not self.resolved_paths:
            assert self.schema_types, "an empty list of files has no types"
            cells = ", ".join(f"NULL::{kind} AS {engine.quote_name(name)}" for name, kind in self.schema_types.items())
            return f"SELECT * FROM (SELECT {cells}) WHERE false"
        columns = ", ".join(map(engine.quote_name, self.columns)) if self.columns is not None else "*"
        return f"SELECT {columns} FROM {reader}"

    def _files(self) -> str:
        return "[" + ", ".join(engine.quote(path) for path in self.resolved_paths) + "]"

    def _types(self) -> str:
        assert self.schema_types is not None
        inner = ", ".join(f"{engine.quote(name)}: {engine.quote(kind)}" for name, kind in self.schema_types.items())
        return "{" + inner + "}"


class CsvDataSet(TextDataSet):
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".csv.gz", ".csv.zst", ".tsv")
    kind = "csv"

    def __init__(
        self,
        paths: str | Iterable[str],
        schema: Mapping[str, str] | None = None,
        delim: str = ",",
        max_line_size: int | None = None,
        parallel: bool = True,
        header: bool | None = False,
        root_dir: str | None = "",
        recursive: bool = False,
        columns: list[str] | None = None,
        union_by_name: bool = False,
    ) -> None:
        super().__init__(paths, root_dir, recursive, columns, union_by_name)
        self.schema_types = dict(schema) if schema is not None else None
        self.delim = delim
        self.max_line_size = max_line_size
        self.parallel = parallel
        self.header = header

    def _reading(self) -> object:
        return (super()._reading(), self.delim, self.max_line_size, self.header)

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        options = [f"delim = {engine.quote(self.delim)}"]
        if self.header is not None:
            options.append(f"header = {str(self.header).lower()}")
        if self.schema_types is not None:
            options += [f"columns = {self._types()}", "auto_detect = false"]
        if self.max_line_size:
            options.append(f"max_line_size = {self.max_line_size}")
        if not self.parallel:
            options.append("parallel = false")
        if self.union_by_name:
            options.append("union_by_name = true")
        return self._select(f"read_csv({self._files()}, {', '.join(options)})")


class JsonDataSet(TextDataSet):
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz")
    kind = "json"

    def __init__(
        self,
        paths: str | Iterable[str],
        schema: Mapping[str, str] | None = None,
        format: str = "newline_delimited",
        max_object_size: int = 1 * GB,
        root_dir: str | None = "",
        recursive: bool = False,
        columns: list[str] | None = None,
        union_by_name: bool = False,
    ) -> None:
        super().__init__(paths, root_dir, recursive, columns, union_by_name)
        self.schema_types = dict(schema) if schema is not None else None
        self.format = format
        self.max_object_size = max_object_size

    def _reading(self) -> object:
        return (super()._reading(), self.format)

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        options = [f"format = {engine.quote(self.format)}"]
        if self.schema_types is not None:
            options.append(f"columns = {self._types()}")
        if self.union_by_name:
            options.append("union_by_name = true")
        if self.max_object_size != 1 * GB:
            options.append(f"maximum_object_size = {self.max_object_size}")
        return self._select(f"read_json({self._files()}, {', '.join(options)})")
