"""Which operator runs which family of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from threefs.smallpond.errors import TaskFailed
from threefs.smallpond.execution.operators import compute, deal_out, project, sink, sql, stream
from threefs.smallpond.execution.operators.output import Result
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node import (
    ArrowComputeNode,
    ArrowStreamNode,
    DataSinkNode,
    Node,
    PartitionNode,
    ProjectionNode,
    PythonScriptNode,
    SqlEngineNode,
)

_OPERATORS: tuple[tuple[type[Node], Callable[..., Result]], ...] = (
    (SqlEngineNode, sql.run),
    (ArrowStreamNode, stream.run),
    (ArrowComputeNode, compute.run),
    (PythonScriptNode, compute.run_script),
    (PartitionNode, deal_out.run),
    (ProjectionNode, project.run),
    (DataSinkNode, sink.run),
)


def run_operator(node: Node, role: str, context: TaskContext, inputs: Sequence[DataSet | None]) -> Result:
    """The task's data set, and its rows where they were counted on the way."""
    for family, operator in _OPERATORS:
        if isinstance(node, family):
            return operator(node, role, context, inputs)
    raise TaskFailed(f"{node} is of no family that can be run")
