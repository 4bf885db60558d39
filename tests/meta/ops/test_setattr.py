"""setattr: chmod, chown, utimes, by the rules of Linux."""

from __future__ import annotations

import errno
import os

import pytest
from tests.meta.harness import ALICE, BOB, Room, refused

from threefs.common.files import FileType, Inode
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


async def _file(room: Room, mode: int = 0o644) -> Inode:
    await room.client.setattr(ROOT_INODE, mode=0o777)
    made = (await room.client.create(ROOT_INODE, b"f", flags=os.O_RDONLY, user=ALICE)).inode
    return await room.client.setattr(made.id, mode=mode)


def test_chmod(room: Room) -> None:
    async def body() -> None:
        file = await _file(room)
        await room.tick()
        changed = await room.client.setattr(file.id, mode=0o4751, user=ALICE)
        assert changed.mode == 0o4751
        assert changed.ctime_us > file.ctime_us
        assert (changed.mtime_us, changed.atime_us) == (file.mtime_us, file.atime_us)
        await refused(errno.EPERM, room.client.setattr(file.id, mode=0o777, user=BOB))
        await room.client.setattr(file.id, gid=77)
        outside = await room.client.setattr(file.id, mode=0o2755, user=ALICE)
        assert outside.mode == 0o755  # setgid for a group that she is not in
        link = await room.client.symlink(ROOT_INODE, b"s", b"f")
        await refused(errno.EOPNOTSUPP, room.client.setattr(link.id, mode=0o600))
        assert (await room.client.setattr(ROOT_INODE, path=b"s", follow=True, mode=0o600)).id == file.id

    room.run(body)


def test_chown(room: Room) -> None:
    async def body() -> None:
        file = await _file(room, 0o6755)
        await refused(errno.EPERM, room.client.setattr(file.id, uid=BOB.uid, user=ALICE))
        await refused(errno.EPERM, room.client.setattr(file.id, gid=BOB.gid, user=ALICE))
        await refused(errno.EPERM, room.client.setattr(file.id, gid=BOB.gid, user=BOB))
        moved = await room.client.setattr(file.id, uid=ALICE.uid, gid=50, user=ALICE)  # one of her groups
        assert (moved.gid, moved.mode) == (50, 0o755)
        kept = await room.client.setattr(file.id, mode=0o2644)
        assert (await room.client.setattr(kept.id, uid=BOB.uid)).mode == 0o2644  # no group execution: no privilege
        directory = await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.setattr(directory.id, mode=0o2755)
        assert (await room.client.setattr(directory.id, uid=7, gid=8)).mode == 0o2755

    room.run(body)


def test_utimes(room: Room) -> None:
    async def body() -> None:
        file = await _file(room, 0o602)
        set_ = await room.client.setattr(file.id, atime_us=5, mtime_us=-7, user=ALICE)
        assert (set_.atime_us, set_.mtime_us) == (5, -7)
        assert set_.ctime_us >= file.ctime_us
        await refused(errno.EPERM, room.client.setattr(file.id, mtime_us=9, user=BOB))
        await room.tick()
        now = await room.client.setattr(file.id, atime_now=True, mtime_now=True, user=BOB)  # he may write
        assert now.atime_us == now.mtime_us == now.ctime_us > set_.ctime_us
        await room.client.setattr(file.id, mode=0o600)
        await refused(errno.EACCES, room.client.setattr(file.id, mtime_now=True, user=BOB))
        only = await room.client.setattr(file.id, mtime_us=1)
        assert only.atime_us == now.atime_us

    room.run(body)


def test_times_of_a_directory(room: Room) -> None:
    async def body() -> None:
        made = await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.setattr(made.id, mtime_us=12345)
        assert (await room.client.stat(made.id)).mtime_us == 12345
        await room.tick()
        chmodded = await room.client.setattr(made.id, mode=0o700)
        assert chmodded.mtime_us == 12345
        await room.tick()
        await room.client.create(made.id, b"f")
        after = await room.client.stat(made.id)
        assert after.mtime_us == after.ctime_us > chmodded.ctime_us
        await room.client.setattr(made.id, mtime_us=99)
        assert (await room.client.stat(made.id)).mtime_us == 99

    room.run(body)


def test_all_or_nothing(room: Room) -> None:
    async def body() -> None:
        file = await _file(room)
        await refused(errno.EPERM, room.client.setattr(file.id, mode=0o600, uid=BOB.uid, user=ALICE))
        assert await room.client.stat(file.id) == file
        fifo = await room.client.mknod(ROOT_INODE, b"fifo", FileType.FIFO)
        assert (await room.client.setattr(fifo.id, mode=0o600, uid=1, gid=2)).mode == 0o600

    room.run(body)
