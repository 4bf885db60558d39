"""statfs: capacity and free space of the cluster, asked from storage and kept for a few seconds."""

from __future__ import annotations

import asyncio

from threefs.common.errors import ThreefsError
from threefs.meta.context import Environment


class Space:
    """One a daemon. While storage does not answer, the last answer stands."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._asking = asyncio.Lock()
        self._known: tuple[int, int] | None = None
        self._until = float("-inf")

    async def get(self) -> tuple[int, int]:
        """(capacity, free) in bytes of user data."""
        if self._known is not None and self._env.runtime.now() < self._until:
            return self._known
        async with self._asking:
            if self._known is None or self._env.runtime.now() >= self._until:
                try:
                    self._known = await self._env.storage.space()
                except ThreefsError:
                    if self._known is None:
                        raise
                self._until = self._env.runtime.now() + self._env.config.tuning.statfs_cache_s
            return self._known
