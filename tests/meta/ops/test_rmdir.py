"""rmdir."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, Room, refused

from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_an_empty_directory(room: Room) -> None:
    async def body() -> None:
        made = await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.rmdir(ROOT_INODE, b"d")
        assert (await room.client.stat(ROOT_INODE)).nlink == 2
        assert (await room.client.stat(made.id)).nlink == 0  # who is in it can still see it
        await refused(errno.ENOENT, room.client.create(made.id, b"f"))
        await refused(errno.ENOENT, room.client.mkdir(made.id, b"e"))
        await room.collect(4)
        await refused(errno.ENOENT, room.client.stat(made.id))

    room.run(body)


def test_refusals(room: Room) -> None:
    async def body() -> None:
        made = await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.create(made.id, b"f")
        await refused(errno.ENOTEMPTY, room.client.rmdir(ROOT_INODE, b"d"))
        await refused(errno.ENOTDIR, room.client.rmdir(ROOT_INODE, b"d/f"))
        await refused(errno.ENOENT, room.client.rmdir(ROOT_INODE, b"missing"))
        await refused(errno.EACCES, room.client.rmdir(ROOT_INODE, b"d", user=ALICE))
        await refused(errno.EBUSY, room.client.rmdir(ROOT_INODE, b"/"))
        await refused(errno.EINVAL, room.client.rmdir(made.id, b"."))
        inner = await room.client.mkdir(made.id, b"e")
        await refused(errno.ENOTEMPTY, room.client.rmdir(inner.id, b".."))
        await room.client.symlink(ROOT_INODE, b"s", b"d/e")
        await refused(errno.ENOTDIR, room.client.rmdir(ROOT_INODE, b"s/"))
        await room.client.rmdir(ROOT_INODE, b"d/e/")

    room.run(body)
