"""link: second names."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from tests.meta.harness import ALICE, Room, refused

from threefs.common.files import FileType
from threefs.common.ids import ROOT_INODE
from threefs.meta import store
from threefs.meta.changes import NLINK_MAX

pytestmark = pytest.mark.unit


def test_two_names_of_one_inode(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        await room.tick()
        linked = await room.client.link(file.id, ROOT_INODE, b"g")
        assert (linked.id, linked.nlink) == (file.id, 2)
        assert linked.ctime_us > file.ctime_us
        assert linked.mtime_us == file.mtime_us
        assert await room.client.lookup(ROOT_INODE, b"f") == await room.client.lookup(ROOT_INODE, b"g") == linked
        fifo = await room.client.mknod(ROOT_INODE, b"fifo", FileType.FIFO)
        assert (await room.client.link(fifo.id, ROOT_INODE, b"fifo2")).nlink == 2

    room.run(body)


def test_symlinks_are_linked_or_followed(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        link = await room.client.symlink(ROOT_INODE, b"s", b"f")
        assert (await room.client.link(ROOT_INODE, ROOT_INODE, b"t", source_path=b"s")).id == link.id
        assert (await room.client.link(ROOT_INODE, ROOT_INODE, b"u", source_path=b"s", follow=True)).id == file.id

    room.run(body)


def test_refusals(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        made = await room.client.mkdir(ROOT_INODE, b"d")
        await refused(errno.EPERM, room.client.link(made.id, ROOT_INODE, b"e"))
        await refused(errno.EEXIST, room.client.link(file.id, ROOT_INODE, b"d"))
        await refused(errno.EACCES, room.client.link(file.id, ROOT_INODE, b"g", user=ALICE))
        await room.client.unlink(ROOT_INODE, b"f")
        await refused(errno.ENOENT, room.client.link(file.id, ROOT_INODE, b"g"))

    room.run(body)


def test_the_limit(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode

        async def raise_count(count: int) -> None:
            txn = room.env.engine.begin()
            txn.set(store.inode_key(file.id), store.pack_inode(replace(file, nlink=count)))
            await txn.commit()

        await raise_count(NLINK_MAX)
        await refused(errno.EMLINK, room.client.link(file.id, ROOT_INODE, b"g"))
        await raise_count(1)

    room.run(body)
