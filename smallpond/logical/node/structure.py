"""Nodes that change how results are grouped, not what they hold: union, consolidation, projection, the root."""

from __future__ import annotations

from collections.abc import Sequence

from threefs.smallpond.common import GENERATED_COLUMNS, TOPLEVEL_DIMENSION
from threefs.smallpond.errors import PlanError
from threefs.smallpond.logical.node.base import Context, Node


class UnionNode(Node):
    """All rows of inputs that have the same partition dimensions, partition by partition."""

    def __init__(self, ctx: Context, input_deps: Sequence[Node]) -> None:
        if not input_deps:
            raise PlanError("a union needs an input")
        super().__init__(ctx, input_deps)


class RootNode(Node):
    """Ties several results into one plan."""

    def __init__(self, ctx: Context, input_deps: Sequence[Node]) -> None:
        super().__init__(ctx, input_deps)


class ConsolidateNode(Node):
    """Keep only the named dimensions: partitions that differ in others become one. No file is touched."""

    def __init__(self, ctx: Context, input_dep: Node, dimensions: Sequence[str]) -> None:
        super().__init__(ctx, (input_dep,))
        self.dimensions = sorted({*dimensions, TOPLEVEL_DIMENSION})

    @property
    def num_partitions(self) -> int:
        return 1 if self.dimensions == [TOPLEVEL_DIMENSION] else super().num_partitions

    def details(self) -> str:
        return ", ".join(name for name in self.dimensions if name != TOPLEVEL_DIMENSION) or "into one"


class ProjectionNode(Node):
    """Read only these columns (names or SQL expressions) of parquet files; may add `filename`, `file_row_number`."""

    def __init__(
        self,
        ctx: Context,
        input_dep: Node,
        columns: Sequence[str] | None = None,
        generated_columns: Sequence[str] | None = None,
        union_by_name: bool | None = None,
    ) -> None:
        unknown = [name for name in generated_columns or () if name not in GENERATED_COLUMNS]
        if unknown:
            raise PlanError(f"{unknown[0]!r} is no generated column: choose from {', '.join(GENERATED_COLUMNS)}")
        super().__init__(ctx, (input_dep,))
        self.columns = list(columns) if columns is not None else None
        self.generated_columns = list(generated_columns or [])
        self.union_by_name = union_by_name

    def details(self) -> str:
        return ", ".join([*(self.columns if self.columns is not None else ["*"]), *self.generated_columns])
