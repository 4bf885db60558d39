"""Sessions of clients that are gone."""

from __future__ import annotations

import os

import pytest
from tests.meta.harness import CHUNK, Room

from threefs.client.meta.scan import scan_sessions
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_a_dead_clients_files_get_their_length(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        assert opened.inode.layout is not None
        room.write(opened.inode.id, opened.inode.layout.chains, 3 * CHUNK + 1)
        pruner = room.daemons[0].pruner
        await pruner.round()
        assert len([s async for s in scan_sessions(room.client)]) == 1  # too young
        await room.tick(61)
        room.live_clients = None
        await pruner.round()
        assert len([s async for s in scan_sessions(room.client)]) == 1  # mgmtd cannot say who lives
        room.live_clients = frozenset([room.client.client_id])
        await pruner.round()
        assert len([s async for s in scan_sessions(room.client)]) == 1
        room.live_clients = frozenset()
        await pruner.round()
        assert [s async for s in scan_sessions(room.client)] == []
        assert (await room.client.stat(opened.inode.id)).length == 3 * CHUNK + 1

    room.run(body)


def test_what_was_unlinked_is_freed_after_its_last_client(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        assert opened.inode.layout is not None
        room.write(opened.inode.id, opened.inode.layout.chains, CHUNK)
        await room.client.unlink(ROOT_INODE, b"f")
        await room.tick(61)
        await room.collect(3)
        assert len(room.storage.chunks) == 1
        await room.daemons[0].pruner.round()
        await room.collect(4)
        assert room.storage.chunks == {}

    room.run(body)


def test_a_client_gives_up_its_own(room: Room) -> None:
    async def body() -> None:
        opened = [await room.client.create(ROOT_INODE, b"f%d" % n) for n in range(3)]
        pairs = [(o.inode.id, o.session) for o in opened if o.session is not None]
        assert await room.client.prune_sessions([*pairs, (ROOT_INODE, pairs[0][1])]) == 3
        assert await room.client.prune_sessions(pairs) == 0
        assert [s async for s in scan_sessions(room.client)] == []

    room.run(body)


def test_every_session_has_one_pruner() -> None:
    room = Room(daemons=2)

    async def body() -> None:
        for number in range(64):
            await room.client.create(ROOT_INODE, b"f%d" % number, flags=os.O_WRONLY)
        await room.tick(61)
        await room.daemons[0].pruner.round()
        left = len([s async for s in scan_sessions(room.client)])
        assert 10 < left < 54
        await room.daemons[1].pruner.round()
        assert [s async for s in scan_sessions(room.client)] == []

    room.run(body)
