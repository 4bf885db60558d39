"""The real runtime: the machine's clocks, the kernel's randomness, asyncio tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from random import Random, SystemRandom
from typing import Any, TypeVar

from threefs.common.runtime.interface import Runtime

T = TypeVar("T")
_log = logging.getLogger(__name__)


class RealRuntime(Runtime):
    """The runtime of a daemon, a client or a tool."""

    def __init__(self, random: Random | None = None) -> None:
        self.random = random or SystemRandom()
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def now(self) -> float:
        return time.monotonic()

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task %s failed; this is a bug", task.get_name(), exc_info=error)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def uuid(self) -> bytes:
        return self.random.getrandbits(128).to_bytes(16, "big")
