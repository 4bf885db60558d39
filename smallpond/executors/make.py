"""Executors by name; each is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from threefs.smallpond.errors import PlanError
from threefs.smallpond.executors.interface import Executor

FACTORIES = {
    "local": "threefs.smallpond.executors.local.factory",
    "ray": "threefs.smallpond.executors.ray",
    "mpi": "threefs.smallpond.executors.mpi",
    "filequeue": "threefs.smallpond.executors.filequeue",
}


def make_executor(name: str, context: Any, config: Any) -> Executor:
    """What `create(context, config)` of the executor's module makes of the RuntimeContext and the SessionConfig."""
    if name not in FACTORIES:
        raise PlanError(f"there is no executor {name!r}: choose from {', '.join(FACTORIES)}")
    module = import_module(FACTORIES[name])
    found: Executor = module.create(context, config)
    return found
