"""open: permissions by access mode, sessions, O_TRUNC, files without names."""

from __future__ import annotations

import errno
import os

import pytest
from tests.meta.harness import ALICE, BOB, CHUNK, Room, refused

from threefs.client.meta.scan import scan_sessions
from threefs.common.errors import BadRequest
from threefs.common.files import FileType
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_access_modes(room: Room) -> None:
    async def body() -> None:
        await room.client.setattr(ROOT_INODE, mode=0o777)
        file = (await room.client.create(ROOT_INODE, b"f", mode=0o460, flags=os.O_RDONLY, user=ALICE)).inode
        await room.client.setattr(file.id, gid=BOB.gid)
        await room.client.open(file.id, os.O_RDONLY, user=ALICE)
        await refused(errno.EACCES, room.client.open(file.id, os.O_WRONLY, user=ALICE))
        await refused(errno.EACCES, room.client.open(file.id, os.O_RDONLY | os.O_TRUNC, user=ALICE))
        await room.client.open(file.id, os.O_RDWR, user=BOB)  # his group may
        with pytest.raises(BadRequest):
            await room.client.open(file.id, os.O_ACCMODE)

    room.run(body)


def test_kinds(room: Room) -> None:
    async def body() -> None:
        made = await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.open(made.id, os.O_RDONLY | os.O_DIRECTORY)
        await refused(errno.EISDIR, room.client.open(made.id, os.O_WRONLY))
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        await refused(errno.ENOTDIR, room.client.open(file.id, os.O_DIRECTORY))
        await room.client.symlink(ROOT_INODE, b"link", b"f")
        assert (await room.client.open(ROOT_INODE, path=b"link")).inode.id == file.id
        await refused(errno.ELOOP, room.client.open(ROOT_INODE, os.O_NOFOLLOW, path=b"link"))
        fifo = await room.client.mknod(ROOT_INODE, b"fifo", FileType.FIFO)
        await refused(errno.ENXIO, room.client.open(fifo.id, os.O_RDONLY))

    room.run(body)


def test_a_session_for_each_writer(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f", flags=os.O_RDONLY)).inode
        assert (await room.client.open(file.id)).session is None
        writers = [await room.client.open(file.id, os.O_WRONLY) for _ in range(2)]
        pinned = await room.client.open(file.id, pin=True)
        known = {record.session async for record in scan_sessions(room.client)}
        assert known == {writers[0].session, writers[1].session, pinned.session}
        for opened in (*writers, pinned):
            await room.client.close(file.id, opened.session, None)
        assert [record async for record in scan_sessions(room.client)] == []

    room.run(body)


def test_o_trunc_leaves_nothing(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        assert opened.inode.layout is not None
        room.write(opened.inode.id, opened.inode.layout.chains, 7 * CHUNK + 5)
        closed = await room.client.close(opened.inode.id, opened.session, None)
        assert closed.length == 7 * CHUNK + 5
        again = await room.client.open(opened.inode.id, os.O_WRONLY | os.O_TRUNC)
        assert again.inode.length == 0
        assert room.stored(opened.inode.id) == {}

    room.run(body)


def test_o_trunc_of_an_empty_file_asks_nothing_of_storage(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f", flags=os.O_RDONLY)).inode
        room.storage.calls.clear()
        await room.client.open(file.id, os.O_WRONLY | os.O_TRUNC)
        assert room.storage.calls == []

    room.run(body)


def test_without_a_name_only_while_somebody_has_it_open(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        await room.client.unlink(ROOT_INODE, b"f")
        second = await room.client.open(opened.inode.id, os.O_RDWR)
        await room.client.close(opened.inode.id, opened.session, None)
        third = await room.client.open(opened.inode.id, pin=True)
        await room.client.close(opened.inode.id, second.session, None)
        await room.client.close(opened.inode.id, third.session, None)
        await refused(errno.ENOENT, room.client.open(opened.inode.id, os.O_RDWR))

    room.run(body)
