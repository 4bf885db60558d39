"""Keyed locks: requests of one daemon that would only conflict in the store wait for each other instead.

Nothing depends on them for correctness, because other daemons do not see them: transactions decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from threefs.common.files import At
from threefs.common.files_proto import path_bytes


class KeyedLocks:
    """A lock for each key that is in use."""

    def __init__(self) -> None:
        self._held: dict[Hashable, tuple[asyncio.Lock, list[int]]] = {}

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        lock, users = self._held.setdefault(key, (asyncio.Lock(), [0]))
        users[0] += 1
        try:
            async with lock:
                yield
        finally:
            users[0] -= 1
            if users[0] == 0:
                del self._held[key]


def directory_of(at: At) -> Hashable:
    """A key for the directory that a place is in: places that spell it differently get different keys."""
    path = path_bytes(at.path).rstrip(b"/")
    return at.inode, path[: path.rfind(b"/") + 1]
