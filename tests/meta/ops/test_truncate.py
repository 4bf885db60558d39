"""truncate: what is left in storage, versions, who may, what a crash leaves."""

from __future__ import annotations

import errno
import os

import pytest
from tests.meta.harness import ALICE, CHUNK, Room, refused

from threefs.client.meta.types import LengthHint, Opened
from threefs.common.errors import Timeout
from threefs.common.files import FileType
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


async def _written(room: Room, length: int) -> Opened:
    opened = await room.client.create(ROOT_INODE, b"f", mode=0o644)
    assert opened.inode.layout is not None
    room.write(opened.inode.id, opened.inode.layout.chains, length)
    return opened


def test_shrinking(room: Room) -> None:
    async def body() -> None:
        opened = await _written(room, 6 * CHUNK + 100)
        id = opened.inode.id
        await room.client.close(id, opened.session, None)
        await room.tick()
        cut = await room.client.truncate(id, 2 * CHUNK + 7)
        assert (cut.length, cut.truncate_version) == (2 * CHUNK + 7, 1)
        assert cut.mtime_us == cut.ctime_us > opened.inode.mtime_us
        assert room.stored(id) == {0: CHUNK, 1: CHUNK, 2: 7}
        assert (await room.client.truncate(id, CHUNK)).length == CHUNK
        assert room.stored(id) == {0: CHUNK}
        assert (await room.client.truncate(id, 0)).length == 0
        assert room.stored(id) == {}

    room.run(body)


def test_growing_needs_no_storage(room: Room) -> None:
    async def body() -> None:
        opened = await _written(room, 10)
        id = opened.inode.id
        await room.client.close(id, opened.session, None)
        room.storage.calls.clear()
        grown = await room.client.truncate(id, 1 << 40)
        assert (grown.length, grown.truncate_version) == (1 << 40, 1)
        assert room.storage.calls == []
        assert (await room.client.sync(id, None)).length == 1 << 40

    room.run(body)


def test_what_a_writer_has_not_reported_is_cut_too(room: Room) -> None:
    async def body() -> None:
        opened = await _written(room, 9 * CHUNK)  # the record still says 0
        await room.client.truncate(opened.inode.id, CHUNK // 2, opened=True)
        assert room.stored(opened.inode.id) == {0: CHUNK // 2}
        stale = LengthHint(9 * CHUNK, opened.inode.truncate_version)
        assert (await room.client.close(opened.inode.id, opened.session, stale)).length == CHUNK // 2

    room.run(body)


def test_refusals(room: Room) -> None:
    async def body() -> None:
        opened = await _written(room, 0)
        id = opened.inode.id
        await refused(errno.EACCES, room.client.truncate(id, 1, user=ALICE))
        await room.client.truncate(id, 1, opened=True, user=ALICE)
        await refused(errno.EFBIG, room.client.truncate(id, (2**32) * CHUNK + 1))
        made = await room.client.mkdir(ROOT_INODE, b"d")
        await refused(errno.EISDIR, room.client.truncate(made.id, 0))
        fifo = await room.client.mknod(ROOT_INODE, b"fifo", FileType.FIFO)
        await refused(errno.EINVAL, room.client.truncate(fifo.id, 0))
        await refused(errno.ENOENT, room.client.truncate(ROOT_INODE, 0, path=b"missing"))

    room.run(body)


def test_privileges_go(room: Room) -> None:
    async def body() -> None:
        await room.client.setattr(ROOT_INODE, mode=0o777)
        file = (await room.client.create(ROOT_INODE, b"f", flags=os.O_RDONLY, user=ALICE)).inode
        await room.client.setattr(file.id, mode=0o6775)
        assert (await room.client.truncate(file.id, 0)).mode == 0o6775  # root keeps them
        assert (await room.client.truncate(file.id, 0, user=ALICE)).mode == 0o775

    room.run(body)


def test_storage_that_fails_leaves_the_length(room: Room) -> None:
    async def body() -> None:
        opened = await _written(room, 3 * CHUNK)
        id = opened.inode.id
        await room.client.close(id, opened.session, None)
        room.storage.failing = True
        with pytest.raises(Timeout):
            await room.client.truncate(id, 5)
        room.storage.failing = False
        assert (await room.client.stat(id)).length == 3 * CHUNK
        assert (await room.client.truncate(id, 5)).length == 5
        assert room.stored(id) == {0: 5}

    room.run(body)


def test_a_writer_that_comes_while_chunks_are_removed(room: Room) -> None:
    async def body() -> None:
        opened = await _written(room, CHUNK)
        id, layout = opened.inode.id, opened.inode.layout
        assert layout is not None
        await room.client.close(id, opened.session, None)

        async def write_more() -> None:
            room.storage.before_remove = None
            other = await room.client.open(id, os.O_WRONLY)
            room.write(id, layout.chains, 8 * CHUNK)
            await room.client.close(id, other.session, LengthHint(8 * CHUNK, 0, 1))

        room.storage.before_remove = write_more
        assert (await room.client.truncate(id, 0)).length == 0
        assert room.stored(id) == {}

    room.run(body)
