"""Operators: what each family of nodes does inside a task. Found by the node's class."""

from threefs.smallpond.execution.operators.registry import run_operator

__all__ = ["run_operator"]
