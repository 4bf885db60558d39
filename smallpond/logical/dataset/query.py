"""Rows that a query makes, without any input: `range(…)`, or a table function over a list."""

from __future__ import annotations

from collections.abc import Callable

from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.logical.dataset.base import DataSet, digest


class SqlQueryDataSet(DataSet):
    """`query_builder(connection, filesystem)` may write the query when it is needed."""

    kind = "query"

    def __init__(self, sql_query: str, query_builder: Callable[[engine.Connection, object], str] | None = None) -> None:
        self.sql_query = sql_query
        self.query_builder = query_builder
        self.columns = None

    @property
    def num_rows(self) -> int:
        with engine.scratch() as connection:
            row = engine.first_row(connection, f"SELECT count(*) FROM ({self.sql_query_fragment(conn=connection)})")
        return int(row[0])

    def fingerprint(self) -> str:
        return digest("query", self.sql_query, repr(self.query_builder))

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        if self.query_builder is not None:
            assert conn is not None, "a query builder needs a connection"
            return self.query_builder(conn, filesystem)
        return self.sql_query
