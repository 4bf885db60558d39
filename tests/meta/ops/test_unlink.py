"""unlink: names, link counts, who may, what stays while it is open."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, BOB, CHUNK, Room, refused

from threefs.client.meta.scan import scan_garbage
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_the_last_name_makes_garbage(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        await room.client.link(file.id, ROOT_INODE, b"g")
        await room.tick()
        assert await room.client.unlink(ROOT_INODE, b"f") == (file.id, 1)
        assert [record async for record in scan_garbage(room.client)] == []
        left = await room.client.stat(file.id)
        assert left.nlink == 1
        assert left.ctime_us > file.ctime_us
        assert await room.client.unlink(ROOT_INODE, b"g") == (file.id, 0)
        assert [record.inode async for record in scan_garbage(room.client)] == [file.id]
        assert (await room.client.stat(file.id)).nlink == 0
        await refused(errno.ENOENT, room.client.lookup(ROOT_INODE, b"g"))

    room.run(body)


def test_symlinks_go_at_once(room: Room) -> None:
    async def body() -> None:
        link = await room.client.symlink(ROOT_INODE, b"s", b"t")
        await room.client.unlink(ROOT_INODE, b"s")
        await refused(errno.ENOENT, room.client.stat(link.id))

    room.run(body)


def test_refusals(room: Room) -> None:
    async def body() -> None:
        await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.create(ROOT_INODE, b"f")
        await refused(errno.EISDIR, room.client.unlink(ROOT_INODE, b"d"))
        await refused(errno.EISDIR, room.client.unlink(ROOT_INODE, b"."))
        await refused(errno.ENOENT, room.client.unlink(ROOT_INODE, b"missing"))
        await refused(errno.ENOTDIR, room.client.unlink(ROOT_INODE, b"f/"))
        await refused(errno.EACCES, room.client.unlink(ROOT_INODE, b"f", user=ALICE))

    room.run(body)


def test_sticky_directories(room: Room) -> None:
    async def body() -> None:
        await room.client.setattr(ROOT_INODE, mode=0o1777)
        await room.client.create(ROOT_INODE, b"of-alice", user=ALICE)
        await refused(errno.EPERM, room.client.unlink(ROOT_INODE, b"of-alice", user=BOB))
        await room.client.unlink(ROOT_INODE, b"of-alice", user=ALICE)
        shared = await room.client.mkdir(ROOT_INODE, b"of-bob", mode=0o1777, user=BOB)
        await room.client.setattr(shared.id, mode=0o1777)
        await room.client.create(shared.id, b"of-alice", user=ALICE)
        await room.client.unlink(shared.id, b"of-alice", user=BOB)  # it is his directory

    room.run(body)


def test_an_open_file_keeps_its_chunks(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        assert opened.inode.layout is not None
        room.write(opened.inode.id, opened.inode.layout.chains, 3 * CHUNK)
        await room.client.unlink(ROOT_INODE, b"f")
        await room.collect(6)
        assert len(room.stored(opened.inode.id)) == 3
        await room.client.close(opened.inode.id, opened.session, None)
        await room.collect(6)
        assert room.storage.chunks == {}
        await refused(errno.ENOENT, room.client.stat(opened.inode.id))

    room.run(body)
