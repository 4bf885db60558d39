"""Inode ids: blocks of 4096 from sharded counters, so that daemons seldom meet on one counter.

id = (count * 32 + shard) << 12 | 0…4095, where count starts at 1: the smallest is 0x20000, far from the fixed ids.
An id is never handed out twice: what a daemon had taken and not used when it stopped stays unused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from threefs.common.ids import InodeId
from threefs.common.kv.interface import KvEngine, Transaction
from threefs.common.runtime.interface import Runtime
from threefs.meta.store import allocation_key

SHARDS: Final = 32
BLOCK_BITS: Final = 12


class InodeAllocator:
    """One a daemon."""

    def __init__(self, runtime: Runtime, engine: KvEngine) -> None:
        self._runtime = runtime
        self._engine = engine
        self._ids: Iterator[int] = iter(())
        self._refill = asyncio.Lock()

    async def next(self) -> InodeId:
        """An id that nobody else gets; one in 4096 calls waits for a commit."""
        while True:
            id = next(self._ids, None)
            if id is not None:
                return InodeId(id)
            async with self._refill:
                id = next(self._ids, None)  # another caller may have refilled while this one waited
                if id is not None:
                    return InodeId(id)
                block = await self._take_block()
                self._ids = iter(range(block << BLOCK_BITS, (block + 1) << BLOCK_BITS))

    async def _take_block(self) -> int:
        shard = self._runtime.random.randrange(SHARDS)
        key = allocation_key(shard)

        async def take(txn: Transaction) -> int:
            raw = await txn.get(key)
            count = int.from_bytes(raw, "little") + 1 if raw else 1
            txn.set(key, count.to_bytes(8, "little"))
            return count

        return await self._engine.transact(take) * SHARDS + shard
