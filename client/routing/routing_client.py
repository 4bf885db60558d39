"""The newest cluster map that this process has seen. Kept by every client and daemon.

The one rule: the map never goes back. A long poll brings a change within milliseconds; an older version, from a
mgmtd that has lost its lease and does not know yet, is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from threefs.client.routing.mgmtd_client import MgmtdClient
from threefs.common.errors import ThreefsError, Timeout
from threefs.common.ids import RoutingVersion
from threefs.common.net.interface import Transport
from threefs.common.routing import Routing
from threefs.common.runtime.interface import Runtime

_log = logging.getLogger(__name__)


class RoutingClient:
    """`routing` is always usable; it is empty (version 0) before `start` has returned."""

    def __init__(
        self, runtime: Runtime, transport: Transport, addresses: Sequence[str], *, poll_s: float = 1.0
    ) -> None:
        self.routing = Routing()
        self.mgmtd = MgmtdClient(runtime, transport, addresses)
        self._runtime = runtime
        self._poll_s = poll_s  # short enough that a poll lost with its connection costs little
        self._changed = asyncio.Event()
        self._refreshing = asyncio.Lock()
        self._refreshed_at = float("-inf")  # when the newest finished fetch was sent
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, timeout_s: float = 30.0) -> None:
        """Fetches the first map and follows it from then on; Timeout if no mgmtd answers."""
        await self._fetch(wait_s=0.0, timeout_s=timeout_s)
        self._task = self._runtime.spawn(self._follow(), name="routing poll")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def refresh(self, *, timeout_s: float = 5.0) -> Routing:
        """What mgmtd has at the time of the call, or later. Concurrent callers share one fetch."""
        asked_at = self._runtime.now()
        async with self._refreshing:
            if self._refreshed_at < asked_at:
                await self._fetch(wait_s=0.0, timeout_s=timeout_s)
        return self.routing

    async def wait_for(self, predicate: Callable[[Routing], bool], timeout_s: float) -> Routing:
        """The first map that satisfies `predicate`; Timeout if none came."""
        try:
            async with asyncio.timeout(timeout_s):
                while not predicate(self.routing):
                    await self._changed.wait()
        except TimeoutError as exc:
            raise Timeout(
                f"the routing (version {self.routing.version}) is not as awaited after {timeout_s:g} s"
            ) from exc
        return self.routing

    async def wait_newer(self, than: RoutingVersion) -> Routing:
        """The next map whose version is above `than`, however long it takes."""
        while self.routing.version <= than:
            await self._changed.wait()
        return self.routing

    async def _follow(self) -> None:
        while True:
            try:
                await self._fetch(wait_s=self._poll_s, timeout_s=self._poll_s * 10)
            except ThreefsError as exc:
                _log.warning("routing stays at version %d: %s", self.routing.version, exc)
                await self._runtime.sleep(self._runtime.jitter(0.5))

    async def _fetch(self, *, wait_s: float, timeout_s: float) -> None:
        sent_at = self._runtime.now()
        found = await self.mgmtd.get_routing(self.routing.version, wait_s=wait_s, timeout_s=timeout_s)
        self._refreshed_at = max(self._refreshed_at, sent_at)
        if found is not None and found.version > self.routing.version:
            self.routing = found
            self._changed.set()
            self._changed = asyncio.Event()
