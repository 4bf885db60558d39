"""What all nodes share: identity, inputs, limits, and the line of the user's program that made them.

A node describes; it computes nothing in the driver. It travels to workers without its inputs and context, so that a
task is as small as its own step. One rule: `VOLATILE` names what does not change the rows; everything else a node holds
is part of the address under which its results are kept.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NewType

from threefs.smallpond.errors import PlanError
from threefs.smallpond.logical.udf import (
    DuckDbExtensionContext,
    ExternalModuleContext,
    PythonUDFContext,
    UDFContext,
    as_udf_context,
)

NodeId = NewType("NodeId", int)
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_OUTPUT_NAME = re.compile(r"[a-zA-Z0-9_]+")
_TASK_MAKERS = {"spawn", "create_task", "create_producer_task", "create_consumer_task", "create_merge_task"}
CPUS_PER_GPU = 8  # a task with a GPU is given the cores that feed it


class Context:
    """Hands out node ids and knows the functions of a plan."""

    def __init__(self) -> None:
        self._next = 1
        self.udfs: dict[str, UDFContext] = {}

    def new_node_id(self) -> NodeId:
        found, self._next = NodeId(self._next), self._next + 1
        return found

    def create_function(
        self,
        name: str,
        func: Callable[..., Any],
        params: Sequence[Any] | None,
        return_type: Any,
        use_arrow_type: bool = False,
    ) -> str:
        """Register a Python function under `name`; pass the returned name in `udfs=[…]`."""
        self.udfs[name] = PythonUDFContext(name, func, params, return_type, use_arrow_type)
        return name

    def create_external_module(self, module_path: str, name: str | None = None) -> str:
        found = name or os.path.basename(module_path).split(".")[0]
        self.udfs[found] = ExternalModuleContext(found, module_path)
        return found

    def create_duckdb_extension(self, extension_path: str, name: str | None = None) -> str:
        found = name or os.path.basename(extension_path).split(".")[0]
        self.udfs[found] = DuckDbExtensionContext(found, extension_path)
        return found

    def resolve_udfs(self, values: Sequence[Any]) -> list[UDFContext]:
        return [as_udf_context(value, self.udfs) for value in values]


class Node:
    """Base of all nodes. `output_name` makes the result a kept output that can be asked for by name."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset(
        {"id", "location", "cpu_limit", "gpu_limit", "memory_limit", "perf", "label", "output_name", "output_path"}
    )
    runs_user_code: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        """A node here describes, and makes no tasks: a class that wants to would be ignored, so it is refused."""
        super().__init_subclass__(**arguments)
        for name in _TASK_MAKERS & vars(cls).keys():
            raise PlanError(
                f"{cls.__name__} overrides {name}(), with which smallpond 0.15 made tasks; here nodes make none: "
                "override process() or partition() instead"
            )

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        output_name: str | None = None,
        output_path: str | None = None,
        cpu_limit: int = 1,
        gpu_limit: float = 0,
        memory_limit: int | None = None,
    ) -> None:
        if output_name is not None and not _OUTPUT_NAME.fullmatch(output_name):
            raise PlanError(f"output_name {output_name!r} may hold letters, digits and underscores only")
        if output_path is not None and not (os.path.isabs(output_path) or "://" in output_path):
            raise PlanError(f"output_path {output_path!r} must be absolute: tasks run in other folders and hosts")
        self.ctx = ctx
        self.id = ctx.new_node_id()
        self.input_deps: tuple[Node, ...] = tuple(input_deps)
        self.output_name = output_name
        self.output_path = output_path
        self.cpu_limit = max(1, int(cpu_limit), int(gpu_limit * CPUS_PER_GPU))
        self.gpu_limit = gpu_limit
        self.memory_limit = memory_limit
        self.location = caller_location()
        self.label = ""

    @property
    def name(self) -> str:
        """The kind of step, for people."""
        return type(self).__name__.removesuffix("Node")

    @property
    def num_partitions(self) -> int:
        """Partitions of the result, over all dimensions."""
        return max((dep.num_partitions for dep in self.input_deps), default=1)

    def details(self) -> str:
        """What tells this node from others of its kind, in one line."""
        return ""

    def with_inputs(self, inputs: Sequence[Node]) -> Node:
        """The same step over other inputs; same id, because it is the same line of the user's program."""
        if all(new is old for new, old in zip(inputs, self.input_deps, strict=True)):
            return self
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.input_deps = tuple(inputs)
        return twin

    def copy(self) -> Any:
        """A twin whose fields may be changed."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def task_limits(self) -> tuple[int, float, int | None]:
        return self.cpu_limit, self.gpu_limit, self.memory_limit or None

    def __str__(self) -> str:
        details = self.details()
        return f"{self.name} #{self.id}" + (f": {details}" if details else "")

    def __repr__(self) -> str:
        return f"<{self}>"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("ctx", "input_deps")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.input_deps = ()


def caller_location() -> str:
    """`file:line` of the first caller outside of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
