"""First come, first served locks on chunks. Used by the write path and the resync.

The one rule: a batch takes its locks in the order of their keys, so two batches never wait for each other. Waits
go only from a chain's head towards its tail, so batches on different daemons do not either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from threefs.common.ids import ChunkId, TargetId

Key = tuple[TargetId, ChunkId]


class ChunkLocks:
    """A key has an entry while it is held; the entry lists those who wait, first come first."""

    def __init__(self) -> None:
        self._waiting: dict[Key, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def hold(self, keys: Iterable[Key]) -> AsyncIterator[None]:
        """Holds the locks of distinct keys."""
        taken: list[Key] = []
        try:
            for key in sorted(keys):
                await self._take(key)
                taken.append(key)
            yield
        finally:
            for key in taken:
                self._release(key)

    def is_held(self, key: Key) -> bool:
        return key in self._waiting

    def held_count(self) -> int:
        return len(self._waiting)

    async def _take(self, key: Key) -> None:
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(key)  # the turn had come
            elif turn in waiting:
                waiting.remove(turn)
            raise

    def _release(self, key: Key) -> None:
        waiting = self._waiting[key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[key]
