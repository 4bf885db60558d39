"""Time limits of many requests on one timer of the event loop.

A timer of the loop for each request would cost more than most requests do. Used by whoever calls and by whoever
serves. The rule kept here: a limit that was passed is carried out once, and never after it was lifted.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class TimeLimit:
    """When `expire` is called unless the limit is lifted before."""

    __slots__ = ("expire", "passed", "when_s")

    def __init__(self, when_s: float, expire: Callable[[], object]) -> None:
        self.when_s = when_s  # on the loop's clock
        self.expire = expire
        self.passed = False


class TimeLimits:
    """Of one event loop, from the first limit on."""

    def __init__(self) -> None:
        self._limits: dict[TimeLimit, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf  # when it fires

    def start(self, seconds: float, expire: Callable[[], object]) -> TimeLimit:
        loop = asyncio.get_running_loop()
        limit = TimeLimit(loop.time() + seconds, expire)
        self._limits[limit] = None
        if limit.when_s < self._timer_s:
            self._arm(loop, limit.when_s)
        return limit

    def lift(self, limit: TimeLimit) -> None:
        self._limits.pop(limit, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, when_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_s = loop.call_at(when_s, self._fire), when_s

    def _fire(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = max(loop.time(), self._timer_s)  # a timer may fire a clock tick early
        self._timer, self._timer_s = None, math.inf
        for limit in [limit for limit in self._limits if limit.when_s <= due_s]:
            if self._limits.pop(limit, 0) is None:
                limit.passed = True
                limit.expire()
        next_s = min((limit.when_s for limit in self._limits), default=math.inf)
        if next_s < self._timer_s:
            self._arm(loop, next_s)
