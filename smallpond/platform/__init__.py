"""Platforms: how jobs and workers are started where a script runs, and what that place has for defaults.

`init(platform=…)` names one: "mpi", or a module of yours that holds a `Platform` subclass.
"""

from __future__ import annotations

from importlib import import_module

from threefs.smallpond.errors import PlanError
from threefs.smallpond.platform.base import Platform
from threefs.smallpond.platform.mpi import MPI

__all__ = ["MPI", "Platform", "get_platform"]

_KNOWN: dict[str, type[Platform]] = {"local": Platform, "mpi": MPI}


def get_platform(name: str | None = None) -> Platform:
    """The platform of that name, or the one that a module of that name defines; without a name, this machine."""
    if name is None:
        return Platform()
    if name in _KNOWN:
        return _KNOWN[name]()
    try:
        module = import_module(name)
    except ImportError as exc:
        raise PlanError(
            f"there is no platform {name!r}: it is none of {', '.join(_KNOWN)}, and no module by that name ({exc})"
        ) from exc
    found = [value for value in vars(module).values() if _is_own(value, module.__name__)]
    if len(found) != 1:
        raise PlanError(f"module {name} must define one subclass of threefs.smallpond.platform.Platform: {found}")
    made: Platform = found[0]()
    return made


def _is_own(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Platform) and value.__module__ == module
