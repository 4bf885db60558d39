"""Requests that are sent again are carried out once, whatever the store and the network do."""

from __future__ import annotations

import asyncio
import errno

import pytest
from tests.meta.harness import ALICE, CONFIG, ROOT, Room, refused

from threefs.client.meta.scan import count_requests
from threefs.client.meta.transport import new_request_id
from threefs.common.errors import BadRequest
from threefs.common.files import At, RenameFlags
from threefs.common.ids import ROOT_INODE, ClientId, InodeId, RequestId, SessionId
from threefs.common.kv.memory import MemoryFaults
from threefs.meta.context import Context
from threefs.meta.ops.create import create
from threefs.meta.ops.mkdir import mkdir
from threefs.meta.ops.rename import rename
from threefs.meta.ops.unlink import unlink
from threefs.meta.server import clean_requests

pytestmark = pytest.mark.unit
CLIENT = ClientId(bytes(16))


def _context(room: Room, daemon: int = 0, request: RequestId | None = None) -> Context:
    env = room.daemons[daemon].env
    return Context(env, ROOT, CLIENT, request or new_request_id(room.runtime), room.runtime.wall_us())


def test_a_repeated_create_finds_its_file(room: Room) -> None:
    async def body() -> None:
        ctx = _context(room)
        arguments = {"mode": 0o644, "flags": 0o302, "session": SessionId(bytes(16))}  # O_RDWR | O_CREAT | O_EXCL
        first = await create(ctx, At(ROOT_INODE, b"f"), **arguments)  # type: ignore[arg-type]
        again = await create(ctx, At(ROOT_INODE, b"f"), **arguments)  # type: ignore[arg-type]
        assert first == again
        assert again.created
        await refused(errno.EEXIST, create(_context(room), At(ROOT_INODE, b"f"), **arguments))  # type: ignore[arg-type]

    room.run(body)


def test_a_repeated_unlink_leaves_a_new_file_of_that_name(room: Room) -> None:
    async def body() -> None:
        await room.client.create(ROOT_INODE, b"f")
        ctx = _context(room)
        first = await unlink(ctx, At(ROOT_INODE, b"f"))
        made = await room.client.create(ROOT_INODE, b"f")
        assert await unlink(ctx, At(ROOT_INODE, b"f")) == first
        assert (await room.client.lookup(ROOT_INODE, b"f")).id == made.inode.id

    room.run(body)


def test_a_repeated_exchange_does_not_turn_back(room: Room) -> None:
    async def body() -> None:
        a = (await room.client.create(ROOT_INODE, b"a")).inode
        await room.client.create(ROOT_INODE, b"b")
        ctx = _context(room)
        for _ in range(3):
            await rename(ctx, At(ROOT_INODE, b"a"), At(ROOT_INODE, b"b"), flags=RenameFlags.EXCHANGE)
        assert (await room.client.lookup(ROOT_INODE, b"b")).id == a.id

    room.run(body)


def test_one_request_in_two_daemons_at_once() -> None:
    room = Room(daemons=2)

    async def body() -> None:
        for daemon in room.daemons:
            daemon.engine.faults.latency_s = 0.01
        for number in range(30):
            request = new_request_id(room.runtime)
            made = await asyncio.gather(
                *(mkdir(_context(room, d, request), At(ROOT_INODE, b"d%d" % number), mode=0o755) for d in (0, 1))
            )
            assert made[0].id == made[1].id
        assert (await room.client.stat(ROOT_INODE)).nlink == 32

    room.run(body)


def test_an_unknown_outcome_is_found_out() -> None:
    room = Room(faults=MemoryFaults(maybe_committed=0.4, conflict=0.1, too_old=0.02, throttled=0.02))

    async def body() -> None:
        for number in range(60):
            name = b"n%d" % number
            made = await room.client.create(ROOT_INODE, name, flags=0o302)
            assert made.created
            await room.client.link(made.inode.id, ROOT_INODE, name + b"-2")
            await room.client.rename(ROOT_INODE, name, ROOT_INODE, name + b"-3")
            assert (await room.client.unlink(ROOT_INODE, name + b"-2"))[1] == 1
            await room.client.mkdir(ROOT_INODE, name)
            await room.client.rmdir(ROOT_INODE, name)
        assert (await room.client.stat(ROOT_INODE)).nlink == 2

    room.run(body)


def test_records_are_forgotten_in_time(room: Room) -> None:
    async def body() -> None:
        for number in range(10):
            await room.client.mkdir(ROOT_INODE, b"d%d" % number)
        await clean_requests(room.env)
        assert await count_requests(room.client) == 10
        await room.tick(CONFIG.tuning.request_record_s + 1)
        await room.client.mkdir(ROOT_INODE, b"late")
        await clean_requests(room.env)
        assert await count_requests(room.client) == 1

    room.run(body)


def test_a_request_that_may_be_forgotten_is_refused(room: Room) -> None:
    async def body() -> None:
        old = new_request_id(room.runtime)
        await room.tick(CONFIG.tuning.request_record_s / 2 + 1)
        with pytest.raises(BadRequest, match="clocks"):
            await mkdir(_context(room, request=old), At(ROOT_INODE, b"d"), mode=0o755)
        with pytest.raises(BadRequest, match="16 bytes"):
            await mkdir(_context(room, request=RequestId(b"short")), At(ROOT_INODE, b"d"), mode=0o755)

    room.run(body)


def test_what_is_refused_leaves_no_record(room: Room) -> None:
    async def body() -> None:
        await refused(errno.EACCES, room.client.mkdir(ROOT_INODE, b"d", user=ALICE))
        await refused(errno.ENOENT, room.client.unlink(ROOT_INODE, b"d"))
        await refused(errno.ENOENT, room.client.setattr(InodeId(0x999999), mode=0))
        assert await count_requests(room.client) == 0

    room.run(body)
