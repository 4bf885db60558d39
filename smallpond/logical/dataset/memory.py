"""Tables in memory: rows that travel inside the descriptor. Small results, and what the user hands in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from threefs.smallpond.common import DEFAULT_BATCH_SIZE, split_evenly
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.io import arrow as arrow_io
from threefs.smallpond.io.plain import table_of
from threefs.smallpond.logical.dataset.base import DataSet

if TYPE_CHECKING:
    import pandas as pd


class ArrowTableDataSet(DataSet):
    """A table in memory. Pickled as an IPC stream, so that a slice of a large table travels as its rows alone."""

    kind = "table in memory"

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.columns = None
        self._fingerprint: str | None = None

    @property
    def num_rows(self) -> int:
        return int(self.table.num_rows)

    @property
    def has_no_columns(self) -> bool:
        return bool(self.table.num_columns == 0 and self.table.num_rows == 0)

    @property
    def num_files(self) -> int:
        return 0

    @property
    def estimated_bytes(self) -> int:
        return int(self.table.nbytes)

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = hashlib.blake2b(arrow_io.to_ipc(self.table), digest_size=16).hexdigest()
        return self._fingerprint

    def schema(self) -> pa.Schema:
        return self.table.schema

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        assert conn is not None, "a table in memory is known to SQL through a connection"
        name = f"__table_{id(self):x}"
        conn.register(name, self.table)
        return f"SELECT * FROM {name}"

    def create_view(self, conn: engine.Connection, name: str) -> None:
        conn.register(name, self.table)

    def drop_view(self, conn: engine.Connection, name: str) -> None:
        conn.unregister(name)

    def to_arrow_table(
        self, max_workers: int = 16, filesystem: object = None, conn: engine.Connection | None = None
    ) -> pa.Table:
        return self.table

    def to_batch_reader(
        self, batch_size: int = DEFAULT_BATCH_SIZE, filesystem: object = None, conn: engine.Connection | None = None
    ) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.table.schema, self.table.to_batches(max_chunksize=batch_size))

    def select_columns(self, columns: Sequence[str]) -> DataSet:
        return ArrowTableDataSet(self.table.select(list(columns)))

    def partition_by_files(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        """A table counts as as many files as it has rows."""
        return self.partition_by_rows(npartition, random_shuffle)

    def partition_by_rows(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        table = self.table
        if random_shuffle:
            table = table.take(pa.array(np.random.default_rng(table.num_rows).permutation(table.num_rows)))
        return [ArrowTableDataSet(table.slice(a, b - a)) for a, b in split_evenly(table.num_rows, npartition)]

    def __getstate__(self) -> bytes:
        return arrow_io.to_ipc(self.table)

    def __setstate__(self, state: bytes) -> None:
        self.__init__(arrow_io.from_ipc(state))  # type: ignore[misc]


class PandasDataSet(ArrowTableDataSet):
    """A pandas frame, as the Arrow table that it converts to (index left out, as `from_pandas` of smallpond does)."""

    kind = "pandas frame"

    def __init__(self, df: pd.DataFrame | pa.Table) -> None:
        super().__init__(df if isinstance(df, pa.Table) else table_from_pandas(df))


def table_from_pandas(df: Any) -> pa.Table:
    """Without pandas' own metadata, which would travel into every file written from it."""
    return pa.Table.from_pandas(df, preserve_index=False).replace_schema_metadata(None)


def table_from_polars(df: Any) -> pa.Table:
    """Strings as `string`, not as the views that Polars keeps: what every reader of the files understands."""
    import polars

    frame = df.collect() if isinstance(df, polars.LazyFrame) else df
    table = frame.to_arrow(compat_level=polars.CompatLevel.oldest())
    small = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    fields = [field.with_type(small.get(field.type, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def table_from_items(items: Sequence[Any]) -> pa.Table:
    """Dictionaries become columns (a key missing in one is null); anything else one column `item`."""
    if items and all(isinstance(item, dict) for item in items):
        names = list(dict.fromkeys(name for item in items for name in item))
        return table_of({name: [item.get(name) for item in items] for name in names})
    return table_of({"item": list(items)})
