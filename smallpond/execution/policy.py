"""When to try again, when to race, when to give up. Pure decisions; the scheduler asks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from threefs.common.errors import RequestError
from threefs.smallpond.errors import UserCodeError
from threefs.smallpond.execution.program import InjectedFault
from threefs.smallpond.executors.interface import Host, Resources
from threefs.smallpond.executors.payload import Failure

# Failures that a second try meets again: the program or the data is wrong. What the outside caused is tried again.
_FINAL_NAMES = frozenset(
    {
        *("SyntaxError", "NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "AttributeError"),
        *("TypeError", "ValueError", "KeyError", "IndexError", "AssertionError", "ZeroDivisionError"),
        *("NotImplementedError", "UnicodeDecodeError", "UserError", "FileNotFoundError", "PermissionError"),
        *("ArrowInvalid", "ArrowTypeError", "ArrowKeyError", "ArrowNotImplementedError"),
    }
)


@dataclass(frozen=True)
class RetryPolicy:
    failures_max: int = 3  # attempts that raised
    losses_max: int = 5  # attempts whose worker died
    memory_factor: int = 2  # of the memory request after running out of it

    def is_final(self, failure: Failure) -> bool:
        exc = failure.exception
        if isinstance(exc, InjectedFault):
            return False
        if isinstance(exc, UserCodeError) and failure.cause_name:
            return failure.cause_name in _FINAL_NAMES
        if isinstance(exc, RequestError):
            return True
        return failure.type_name in _FINAL_NAMES

    def more_memory(self, request: Resources, hosts: Sequence[Host]) -> Resources | None:
        """The request of the next attempt; None when no host has more to give."""
        largest = max((host.total.memory_bytes for host in hosts), default=0)
        wanted = min(request.memory_bytes * self.memory_factor, largest)
        return replace(request, memory_bytes=wanted) if wanted > request.memory_bytes else None


@dataclass(frozen=True)
class SpeculationPolicy:
    """Race a task that takes much longer than its finished siblings did."""

    enabled: bool = True
    siblings_min: int = 3  # finished ones, before anything is said about what is long
    factor: float = 3.0  # times the median
    seconds_min: float = 5.0

    def is_straggler(self, elapsed: float, finished: Sequence[float]) -> bool:
        if not self.enabled or len(finished) < self.siblings_min or elapsed < self.seconds_min:
            return False
        return elapsed > self.factor * statistics.median(finished)


@dataclass(frozen=True)
class BundlePolicy:
    """How many tasks travel together: enough to make their overhead small, few enough to balance and to retry."""

    seconds: float = 0.1
    tasks_max: int = 256

    def size(self, ready: int, slots: int, finished: int, seconds: float) -> int:
        """Tasks of the next bundle, of `ready` ones, when `finished` tasks took `seconds` altogether."""
        if not finished:
            return 1
        by_time = int(self.seconds / max(seconds / finished, 1e-6))
        return max(1, min(by_time, self.tasks_max, -(-ready // max(1, slots))))
