"""Extended attributes."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, BOB, Room, refused

from threefs.client.meta.types import XattrFlags
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_set_get_list_remove(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        await room.client.setxattr(file.id, b"user.b", b"\x00\xff" * 30000)
        await room.client.setxattr(file.id, b"user.a", b"")
        await room.tick()
        await room.client.setxattr(file.id, b"user.a", b"1")
        assert await room.client.getxattr(file.id, b"user.a") == b"1"
        assert await room.client.getxattr(file.id, b"user.b") == b"\x00\xff" * 30000
        assert await room.client.listxattr(file.id) == [b"user.a", b"user.b"]
        assert (await room.client.stat(file.id)).ctime_us > file.ctime_us
        await room.client.removexattr(file.id, b"user.a")
        await refused(errno.ENODATA, room.client.getxattr(file.id, b"user.a"))
        await refused(errno.ENODATA, room.client.removexattr(file.id, b"user.a"))
        assert await room.client.listxattr(file.id) == [b"user.b"]

    room.run(body)


def test_setting_what_is_there_changes_no_time(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        await room.client.setxattr(file.id, b"user.a", b"1")
        before = await room.client.stat(file.id)
        await room.tick()
        await room.client.setxattr(file.id, b"user.a", b"1")
        assert await room.client.stat(file.id) == before
        await refused(errno.EEXIST, room.client.setxattr(file.id, b"user.a", b"1", flags=XattrFlags.CREATE))

    room.run(body)


def test_flags_and_limits(room: Room) -> None:
    async def body() -> None:
        id = (await room.client.create(ROOT_INODE, b"f")).inode.id
        set_ = room.client.setxattr
        await refused(errno.ENODATA, set_(id, b"user.a", b"1", flags=XattrFlags.REPLACE))
        await set_(id, b"user.a", b"1", flags=XattrFlags.CREATE)
        await refused(errno.EEXIST, set_(id, b"user.a", b"1", flags=XattrFlags.CREATE))
        await set_(id, b"user.a", b"2", flags=XattrFlags.REPLACE)
        await refused(errno.EINVAL, set_(id, b"user.a", b"2", flags=XattrFlags.REPLACE | XattrFlags.CREATE))
        await refused(errno.ERANGE, set_(id, b"user." + b"x" * 251, b""))
        await set_(id, b"user." + b"x" * 250, b"")
        await refused(errno.E2BIG, set_(id, b"user.big", b"x" * 65537))
        await refused(errno.EINVAL, set_(id, b"user.", b""))
        for name in (b"system.posix_acl_access", b"nothing", b"other.x"):
            await refused(errno.EOPNOTSUPP, set_(id, name, b""))
            await refused(errno.EOPNOTSUPP, room.client.getxattr(id, name))

    room.run(body)


def test_permission(room: Room) -> None:
    async def body() -> None:
        id = (await room.client.create(ROOT_INODE, b"f", mode=0o604)).inode.id
        await room.client.setxattr(id, b"user.a", b"1")
        await room.client.setxattr(id, b"trusted.t", b"2")
        await room.client.setxattr(id, b"security.s", b"3")
        assert await room.client.getxattr(id, b"user.a", user=ALICE) == b"1"
        assert await room.client.getxattr(id, b"security.s", user=ALICE) == b"3"
        await refused(errno.ENODATA, room.client.getxattr(id, b"trusted.t", user=ALICE))
        assert await room.client.listxattr(id, user=ALICE) == [b"security.s", b"user.a"]
        await refused(errno.EACCES, room.client.setxattr(id, b"user.a", b"1", user=ALICE))
        for name in (b"trusted.t", b"security.s"):
            await refused(errno.EPERM, room.client.setxattr(id, name, b"1", user=ALICE))
        await room.client.symlink(ROOT_INODE, b"s", b"f")
        await refused(errno.EPERM, room.client.setxattr(ROOT_INODE, b"user.a", b"1", path=b"s"))
        sticky = await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.setattr(sticky.id, mode=0o1777, uid=ALICE.uid)
        await refused(errno.EPERM, room.client.setxattr(sticky.id, b"user.a", b"", user=BOB))
        await room.client.setxattr(sticky.id, b"user.a", b"", user=ALICE)

    room.run(body)


def test_they_go_with_the_inode(room: Room) -> None:
    async def body() -> None:
        id = (await room.client.mkdir(ROOT_INODE, b"d")).id
        await room.client.setxattr(id, b"user.a", b"1")
        await room.client.rmdir(ROOT_INODE, b"d")
        await room.collect(4)
        left = await room.env.engine.begin().get_range(b"XATR", b"XATS")
        assert left == []

    room.run(body)
