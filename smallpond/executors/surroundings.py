"""The environment of worker processes: what `init` says of allocators and NUMA nodes, as variables.

Every executor that starts processes asks here. One rule: what cannot be had on this machine is an error with the name
of what is missing, not a setting without effect.
"""

from __future__ import annotations

import ctypes.util
import os
from typing import Any

from threefs.smallpond.errors import PlanError
from threefs.smallpond.executors import numa

ALLOCATORS = ("system", "jemalloc", "mimalloc")


def worker_environment(context: Any, config: Any) -> dict[str, str]:
    """Variables for workers, on top of the environment that they inherit."""
    found = {"OPENBLAS_NUM_THREADS": "1", **context.env_overrides}
    if config.memory_allocator:
        found |= _allocator(config.memory_allocator)
    if config.bind_numa_node:
        found[numa.VARIABLE] = "1"
    return found


def _allocator(name: str) -> dict[str, str]:
    """Arrow's pool, where Arrow was built with it, and the library under everything else, where it is installed."""
    import pyarrow as pa

    if name not in ALLOCATORS:
        raise PlanError(f"memory_allocator {name!r} is none of {', '.join(ALLOCATORS)}")
    found = {"ARROW_DEFAULT_MEMORY_POOL": name} if name in pa.supported_memory_backends() else {}
    library = None if name == "system" else ctypes.util.find_library(name)
    if library is not None:
        found["LD_PRELOAD"] = ":".join(filter(None, (library, os.environ.get("LD_PRELOAD", ""))))
    if not found:
        raise PlanError(
            f"memory_allocator {name!r} is not on this machine: Arrow was built without it, and there is no lib{name} "
            f"(Debian: lib{name}2); choose one of {', '.join(pa.supported_memory_backends())}"
        )
    return found
