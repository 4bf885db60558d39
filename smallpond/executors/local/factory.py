"""The local executor as `make_executor` makes it."""

from __future__ import annotations

from typing import Any

from threefs.smallpond.executors.local.executor import LocalExecutor, host_resources


def create(context: Any, config: Any) -> LocalExecutor:
    """Options: `resources`, `lanes`, `processes` (False keeps all work in threads)."""
    options = {name: config.options[name] for name in ("resources", "lanes", "processes") if name in config.options}
    environment = {"OPENBLAS_NUM_THREADS": "1", **context.env_overrides}
    if config.memory_allocator:
        environment["ARROW_DEFAULT_MEMORY_POOL"] = config.memory_allocator
    options.setdefault("resources", host_resources())
    return LocalExecutor(**options, environment=environment)
