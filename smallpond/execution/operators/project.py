"""Projection: other reading options for the same files; no row is touched."""

from __future__ import annotations

from collections.abc import Sequence

from threefs.smallpond.errors import PlanError
from threefs.smallpond.execution.operators.output import Result
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.logical.dataset import DataSet, ParquetDataSet
from threefs.smallpond.logical.node import ProjectionNode


def run(node: ProjectionNode, role: str, context: TaskContext, inputs: Sequence[DataSet | None]) -> Result:
    source = inputs[0]
    assert source is not None, "a projection has an input"
    if isinstance(source, ParquetDataSet):
        return source.projected(node.columns, node.generated_columns, node.union_by_name), None
    if node.generated_columns:
        raise PlanError(f"{node} (made at {node.location}): generated columns need parquet files, not {source}")
    return (source.select_columns(node.columns) if node.columns is not None else source), None
