"""The collector: space and records return to zero, whatever happens meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from tests.meta.harness import CHUNK, Room

from threefs.client.meta.scan import scan_garbage, scan_inodes
from threefs.client.meta.types import LengthHint, Opened
from threefs.common.ids import GC_ROOT_INODE, ROOT_INODE
from threefs.meta.gc import count_garbage

pytestmark = pytest.mark.unit


async def _file(room: Room, name: str, chunks: int) -> Opened:
    opened = await room.client.create(ROOT_INODE, name)
    assert opened.inode.layout is not None
    room.write(opened.inode.id, opened.inode.layout.chains, chunks * CHUNK)
    hint = LengthHint(chunks * CHUNK, 0, 1)
    await room.client.close(opened.inode.id, opened.session, hint)
    return opened


async def _records(room: Room) -> list[bytes]:
    """Keys of everything that belongs to files: what must be gone in the end."""
    txn = room.env.engine.begin()
    keys = [key for key, _ in await txn.get_range(b"A", b"Z") if key[:4] not in (b"IDEM", b"SING")]
    fixed = {ROOT_INODE, GC_ROOT_INODE}
    return [key for key in keys if not (key[:4] == b"INOD" and int.from_bytes(key[4:12], "little") in fixed)]


def test_nothing_is_left(room: Room) -> None:
    async def body() -> None:
        for number in range(60):
            await _file(room, f"f{number}", number % 5)
            await room.client.setxattr(ROOT_INODE, b"user.x", b"1", path=f"f{number}")
        assert len(room.storage.chunks) == 120
        for number in range(60):
            await room.client.unlink(ROOT_INODE, f"f{number}")
        await room.collect(1)
        assert len(room.storage.chunks) == 120  # not yet due
        await room.collect(2)
        assert room.storage.chunks == {}
        assert await count_garbage(room.env) == 0
        assert await _records(room) == []

    room.run(body)


def test_storage_that_is_down_only_delays(room: Room) -> None:
    async def body() -> None:
        await _file(room, "f", 3)
        await room.client.unlink(ROOT_INODE, "f")
        room.storage.failing = True
        await room.collect(3)
        assert len(room.storage.chunks) == 3
        assert await count_garbage(room.env) == 1
        room.storage.failing = False
        await room.collect(3)
        assert room.storage.chunks == {}
        assert await _records(room) == []

    room.run(body)


def test_a_removal_that_stopped_halfway_is_finished(room: Room) -> None:
    async def body() -> None:
        opened = await _file(room, "f", 12)
        await room.client.unlink(ROOT_INODE, "f")
        await room.tick(6)
        removed = 0

        async def crash_at_second() -> None:
            nonlocal removed
            removed += 1
            if removed == 2:
                raise asyncio.CancelledError

        room.storage.before_remove = crash_at_second
        with pytest.raises(asyncio.CancelledError):
            await room.daemons[0].collector.round()
        room.storage.before_remove = None
        assert 0 < len(room.stored(opened.inode.id)) < 12
        await room.collect(2)
        assert await _records(room) == []
        assert room.storage.chunks == {}

    room.run(body)


def test_two_daemons_that_both_think_a_shard_is_theirs() -> None:
    room = Room(daemons=2)

    async def body() -> None:
        for daemon in room.daemons:
            daemon.engine.faults.latency_s = 0.01
            daemon.collector._owns = lambda shard: True
        await room.client.mkdirs(ROOT_INODE, "/t/a/b")
        for number in range(30):
            await _file(room, f"/t/a/f{number}", 2)
        kept = await room.client.link((await room.client.stat_path("/t/a/f3")).id, ROOT_INODE, "kept")
        await room.client.remove_recursive(ROOT_INODE, "t")
        for _ in range(6):
            await asyncio.gather(*(daemon.collector.round() for daemon in room.daemons))
            await room.tick(5)
        assert {key[1] for key in room.storage.chunks} == {kept.id}
        assert [inode.id async for inode in scan_inodes(room.client) if inode.id not in (1, 2)] == [kept.id]
        assert [record async for record in scan_garbage(room.client)] == []

    room.run(body)


def test_shards_are_shared_out() -> None:
    room = Room(daemons=3)

    async def body() -> None:
        shares = [sum(daemon.collector._owns(shard) for shard in range(256)) for daemon in room.daemons]
        assert sum(shares) == 256
        assert min(shares) > 50

    room.run(body)
