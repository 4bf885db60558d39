"""The local executor as `make_executor` makes it."""

from __future__ import annotations

from typing import Any

from threefs.smallpond.executors.local.executor import LocalExecutor, host_resources
from threefs.smallpond.executors.surroundings import worker_environment


def create(context: Any, config: Any) -> LocalExecutor:
    """Options: `resources`, `lanes`, `processes` (False keeps all work in threads)."""
    options = {name: config.options[name] for name in ("resources", "lanes", "processes") if name in config.options}
    options.setdefault("resources", host_resources())
    return LocalExecutor(**options, environment=worker_environment(context, config))
