"""mknod: fifos, sockets, devices, plain files."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, Room, refused

from threefs.client.meta.scan import scan_sessions
from threefs.common.files import FileType
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_every_kind(room: Room) -> None:
    async def body() -> None:
        device = await room.client.mknod(ROOT_INODE, b"dev", FileType.BLOCK_DEVICE, mode=0o660, rdev=0x801)
        assert (device.type, device.mode, device.rdev) == (FileType.BLOCK_DEVICE, 0o660, 0x801)
        for kind in (FileType.FIFO, FileType.SOCKET, FileType.CHAR_DEVICE):
            made = await room.client.mknod(ROOT_INODE, kind.name, kind)
            assert (await room.client.lookup(ROOT_INODE, kind.name)).type is kind
            assert made.layout is None
        file = await room.client.mknod(ROOT_INODE, b"f", FileType.FILE)
        assert file.layout is not None
        assert [record async for record in scan_sessions(room.client)] == []

    room.run(body)


def test_refusals(room: Room) -> None:
    async def body() -> None:
        await room.client.setattr(ROOT_INODE, mode=0o777)
        await room.client.mknod(ROOT_INODE, b"fifo", FileType.FIFO, user=ALICE)
        await refused(errno.EPERM, room.client.mknod(ROOT_INODE, b"dev", FileType.CHAR_DEVICE, user=ALICE))
        await refused(errno.EEXIST, room.client.mknod(ROOT_INODE, b"fifo", FileType.FIFO))
        await refused(errno.EINVAL, room.client.mknod(ROOT_INODE, b"d", FileType.DIRECTORY))
        await refused(errno.ENOENT, room.client.mknod(ROOT_INODE, b"new/", FileType.FIFO))

    room.run(body)
