"""symlink and readlink."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, Room, refused

from threefs.common.files import FileType
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_targets_are_any_bytes(room: Room) -> None:
    async def body() -> None:
        for number, target in enumerate((b"x", b"/a/b/../c/", "späß/☃".encode(), bytes(range(1, 256)), b"y" * 4095)):
            made = await room.client.symlink(ROOT_INODE, b"s%d" % number, target)
            assert (made.type, made.mode, made.nlink) == (FileType.SYMLINK, 0o777, 1)
            assert await room.client.readlink(made.id) == target
            assert await room.client.readlink(ROOT_INODE, b"s%d" % number) == target

    room.run(body)


def test_refusals(room: Room) -> None:
    async def body() -> None:
        await refused(errno.ENOENT, room.client.symlink(ROOT_INODE, b"s", b""))
        await refused(errno.ENAMETOOLONG, room.client.symlink(ROOT_INODE, b"s", b"y" * 4096))
        await refused(errno.EINVAL, room.client.symlink(ROOT_INODE, b"s", b"a\x00b"))
        await refused(errno.EACCES, room.client.symlink(ROOT_INODE, b"s", b"t", user=ALICE))
        await room.client.create(ROOT_INODE, b"f")
        await refused(errno.EEXIST, room.client.symlink(ROOT_INODE, b"f", b"t"))
        await refused(errno.EINVAL, room.client.readlink(ROOT_INODE, b"f"))

    room.run(body)
