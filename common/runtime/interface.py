"""What protocol code is handed instead of the world: time, randomness and tasks.

All rooms run on asyncio. In production the loop is uvloop's; in the simulation it is a loop on virtual time
(`common.runtime.simulated`), one for a whole cluster, so `asyncio.sleep`, `asyncio.timeout`, events, locks and
queues are fine in protocol code. What is not: `time.*`, `random.*`, `os.urandom`, `uuid.*`, sockets, files,
threads, `loop.run_in_executor`, and whatever iterates over a set of tasks (`asyncio.wait`, `as_completed`,
`TaskGroup`), because its order follows addresses. Use `gather`, `Runtime.spawn` and `common.runtime.tasks`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


class Runtime(ABC):
    """One process's (or one simulated process's) view of the world."""

    random: Random  # seeded in the simulation; everything that is drawn comes from here

    @abstractmethod
    def now(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""

    @abstractmethod
    def wall_us(self) -> int:
        """Microseconds since 1970: for inode times and logs, never for deadlines."""

    @abstractmethod
    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Runs `work` as a task of this process. A task that fails with anything but cancellation is
        logged as a bug; in the simulation it fails the run. All are cancelled by `close` (or a crash)."""

    @abstractmethod
    async def close(self) -> None:
        """Cancels and awaits every task that is still running."""

    def uuid(self) -> bytes:
        """16 random bytes."""
        return self.random.randbytes(16)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def jitter(self, seconds: float, share: float = 0.2) -> float:
        """`seconds`, up to `share` more or less, so that many processes do not move in step."""
        return seconds * (1 + share * (2 * self.random.random() - 1))
