"""The user's Python functions of data frames, as what the compute nodes call. Picklable; named for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from threefs.smallpond.errors import UserCodeError
from threefs.smallpond.io.plain import array_of, table_of


def name_of(function: Any) -> str:
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__qualname__", type(inner).__name__)).replace("<locals>.", "")


@dataclass(frozen=True)
class RowFunction:
    """map, flat_map and filter by row."""

    function: Callable[[dict[str, Any]], Any]
    kind: Literal["map", "flat_map", "filter"]
    schema: pa.Schema | None

    @property
    def name(self) -> str:
        return name_of(self.function)

    def __call__(self, runtime_ctx: Any, tables: list[pa.Table]) -> pa.Table:
        (table,) = tables
        if self.kind == "filter":
            kept = [bool(self.function(row)) for row in table.to_pylist()]
            return table.filter(array_of(kept)) if kept else table
        if self.kind == "map":
            rows = [self.function(row) for row in table.to_pylist()]
        else:
            rows = [found for row in table.to_pylist() for found in self.function(row)]
        for row in rows:
            if not isinstance(row, dict):
                raise UserCodeError(
                    f"{self.kind} {self.name} returned {type(row).__name__}; a row is a dict of columns"
                )
        if self.schema is not None:
            return pa.Table.from_pylist(rows, self.schema)
        names = list(dict.fromkeys(name for row in rows for name in row))
        return table_of({name: [row.get(name) for row in rows] for name in names})


@dataclass(frozen=True)
class BatchFunction:
    """map_batches: one table at a time, or an iterator over all of them."""

    function: Callable[[Any], Any]
    streaming: bool

    @property
    def name(self) -> str:
        return name_of(self.function)

    def __call__(self, runtime_ctx: Any, inputs: list[Any]) -> Any:
        (source,) = inputs
        return self.function(_tables(source)) if self.streaming else self.function(source)


def _tables(batches: Any) -> Iterator[pa.Table]:
    for batch in batches:
        yield pa.Table.from_batches([batch])
