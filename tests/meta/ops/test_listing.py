"""list: order, pages, attributes, permission."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, Room, refused

from threefs.common.files import FileType
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_pages_in_name_order(room: Room) -> None:
    async def body() -> None:
        names = [*sorted(b"n%d" % number for number in range(25)), b"\xff"]
        for name in names:
            await room.client.mknod(ROOT_INODE, name, FileType.FILE)
        whole = await room.client.list(ROOT_INODE)
        assert [item.entry.name for item in whole.entries] == names
        assert not whole.more
        seen, after = [], b""
        while True:
            page = await room.client.list(ROOT_INODE, after=after, limit=7)
            seen += [item.entry.name for item in page.entries]
            if not page.more:
                break
            after = seen[-1]
        assert seen == names
        exact = await room.client.list(ROOT_INODE, limit=len(names))
        assert not exact.more
        assert [item.entry.name async for item in room.client.list_all(ROOT_INODE)] == names

    room.run(body)


def test_attributes(room: Room) -> None:
    async def body() -> None:
        made = await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.create(made.id, b"inner")
        await room.client.symlink(ROOT_INODE, b"s", b"d")
        page = await room.client.list(ROOT_INODE)
        for item in page.entries:
            assert item.inode == await room.client.lookup(ROOT_INODE, item.entry.name)
            assert item.inode.type is item.entry.type
        bare = await room.client.list(ROOT_INODE, attributes=False)
        assert [item.inode for item in bare.entries] == [None, None]
        assert [item.entry.name for item in (await room.client.list(ROOT_INODE, b"s")).entries] == [b"inner"]

    room.run(body)


def test_permission(room: Room) -> None:
    async def body() -> None:
        made = await room.client.mkdir(ROOT_INODE, b"d", mode=0o711)
        await room.client.create(made.id, b"f")
        await refused(errno.EACCES, room.client.list(made.id, user=ALICE))
        await room.client.setattr(made.id, mode=0o744)
        page = await room.client.list(made.id, user=ALICE)
        assert [(item.entry.name, item.inode) for item in page.entries] == [(b"f", None)]
        await refused(errno.ENOTDIR, room.client.list(made.id, b"f"))

    room.run(body)
