"""Background work spread over the live daemons: each shard belongs to one of them by rendezvous hashing.

The view of who is alive may differ between daemons for a while, so that two work on one shard or nobody does: every
step of the work is a transaction that finds out whether it is still to be done. Correctness never depends on this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from threefs.common.errors import ThreefsError
from threefs.common.ids import NodeId
from threefs.common.rendezvous import owner
from threefs.common.routing import NodeStatus, NodeType, Routing
from threefs.common.runtime.interface import Runtime

_log = logging.getLogger(__name__)
_LOG_EVERY: Final = 60  # a failure that repeats is logged once in so many rounds


class Ownership:
    """Which shards are this daemon's."""

    def __init__(self, node: NodeId, routing: Callable[[], Routing]) -> None:
        self._node = node
        self._routing = routing

    def owns(self, shard: int) -> bool:
        """True for every shard while no other live metadata daemon is known."""
        nodes = self._routing().nodes.values()
        live = [n.id for n in nodes if n.type is NodeType.META and n.status is NodeStatus.CONNECTED]
        if self._node not in live:
            live.append(self._node)
        return live[owner(shard, live)] == self._node


class Periodic:
    """Runs a round of work every `interval_s()`, or at once when woken; one that fails is logged and tried again."""

    def __init__(
        self, runtime: Runtime, name: str, work: Callable[[], Awaitable[None]], interval_s: Callable[[], float]
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._work = work
        self._interval_s = interval_s
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0

    def start(self) -> None:
        self._task = self._runtime.spawn(self._run(), name=self._name)

    def wake(self) -> None:
        self._woken.set()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._pause()
            try:
                await self._work()
                self._failures = 0
            except ThreefsError as exc:
                if self._failures % _LOG_EVERY == 0:
                    _log.warning("%s failed and will be tried again: %s: %s", self._name, type(exc).__name__, exc)
                self._failures += 1

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._runtime.jitter(self._interval_s())):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()
