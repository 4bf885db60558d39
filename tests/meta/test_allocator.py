"""Inode ids are never given out twice."""

from __future__ import annotations

import asyncio

import pytest
from tests.meta.harness import Room

from threefs.common.ids import FIRST_FREE_INODE
from threefs.common.kv.memory import MemoryFaults
from threefs.meta.allocator import BLOCK_BITS, InodeAllocator

pytestmark = pytest.mark.unit


def test_ids_of_many_daemons_differ() -> None:
    room = Room(daemons=3, faults=MemoryFaults(maybe_committed=0.3, conflict=0.2, latency_s=0.01))

    async def body() -> None:
        allocators = [InodeAllocator(d.env.runtime, d.engine) for d in room.daemons for _ in range(3)]

        async def take(allocator: InodeAllocator) -> list[int]:
            return [await allocator.next() for _ in range(5000)]

        ids = [id for taken in await asyncio.gather(*map(take, allocators)) for id in taken]
        assert len(set(ids)) == len(ids)
        assert min(ids) >= 32 << BLOCK_BITS > FIRST_FREE_INODE

    room.run(body)
