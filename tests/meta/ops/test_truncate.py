"""truncate: what is left in storage, versions, who may, what a crash leaves."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable

import pytest
from tests.meta.harness import ALICE, CHUNK, ROOT, Room, refused

from threefs.client.meta.client import MetaClient
from threefs.client.meta.transport import new_request_id
from threefs.client.meta.types import LengthHint, Opened
from threefs.common.errors import BadRequest, Timeout
from threefs.common.files import At, FileType, Inode
from threefs.common.ids import ROOT_INODE
from threefs.common.kv.memory import MemoryFaults
from threefs.meta.context import Context
from threefs.meta.ops.truncate import truncate

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


def test_a_repeated_request_cuts_once(room: Room) -> None:
    """What is written after the first answer stays, whenever the duplicate runs."""

    async def body() -> None:
        opened = await _written(room, 4 * CHUNK)
        id, layout = opened.inode.id, opened.inode.layout
        assert layout is not None
        request = new_request_id(room.runtime)

        def attempt() -> Awaitable[Inode]:
            ctx = Context(room.env, ROOT, room.client.client_id, request, room.runtime.wall_us())
            return truncate(ctx, At(id), CHUNK, opened=True)

        async def slow() -> None:
            await asyncio.sleep(1)

        room.storage.before_remove = slow

        async def first_then_write() -> None:
            await attempt()
            room.storage.put(layout.chains[1], id, 1, 77)

        first = asyncio.ensure_future(first_then_write())
        await room.tick(0.5)
        second = asyncio.ensure_future(attempt())  # waits for the first
        await asyncio.gather(first, second)
        await attempt()
        assert room.stored(id) == {0: CHUNK, 1: 77}
        room.storage.before_remove = None
        await room.client.close(id, opened.session, None)

    room.run(body)


def test_a_request_that_is_too_old_cuts_nothing(room: Room) -> None:
    async def body() -> None:
        opened = await _written(room, CHUNK)
        ctx = Context(room.env, ROOT, room.client.client_id, new_request_id(room.runtime), room.runtime.wall_us())
        ctx.now_us += 3600 * 10**6
        with pytest.raises(BadRequest, match="clocks"):
            await truncate(ctx, At(opened.inode.id), 0, opened=True)
        assert room.stored(opened.inode.id) == {0: CHUNK}

    room.run(body)


def test_it_ends_when_its_caller_gives_up(room: Room) -> None:
    async def body() -> None:
        opened = await _written(room, 2 * CHUNK)
        calls: list[float] = []

        async def silent() -> None:
            calls.append(room.runtime.now())
            await asyncio.sleep(1000)

        room.storage.before_remove = silent
        impatient = MetaClient(room.runtime, room.carrier.transport(), ["meta-0"], room.client.client_id, timeout_s=3.0)
        with pytest.raises(Timeout):
            await impatient.truncate(opened.inode.id, 0, opened=True)
        room.storage.before_remove = None
        await room.tick(2000)
        assert len(room.stored(opened.inode.id)) == 2  # nothing was left running
        assert (await room.client.truncate(opened.inode.id, 0, opened=True)).length == 0

    room.run(body)


def test_two_at_once_in_two_daemons() -> None:
    room = Room(daemons=2, faults=MemoryFaults(latency_s=0.01))

    async def body() -> None:
        opened = await _written(room, 6 * CHUNK)
        id = opened.inode.id

        def attempt(daemon: int, length: int) -> Awaitable[Inode]:
            ctx = Context(
                room.daemons[daemon].env,
                ROOT,
                room.client.client_id,
                new_request_id(room.runtime),
                room.runtime.wall_us(),
            )
            return truncate(ctx, At(id), length, opened=True)

        results = await asyncio.gather(attempt(0, CHUNK + 5), attempt(1, 3 * CHUNK))
        assert sorted(inode.truncate_version for inode in results) == [1, 2]
        last = max(results, key=lambda inode: inode.truncate_version)
        assert (await room.client.close(id, opened.session, None)).length == last.length

    room.run(body)
