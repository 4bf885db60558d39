"""`Planner` where programs written for smallpond import it from. It lives in `execution.planner`.

Looked up when it is asked for: `execution` imports `logical`, and must not be imported by it.
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "Planner":
        return importlib.import_module("threefs.smallpond.execution.planner").Planner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
