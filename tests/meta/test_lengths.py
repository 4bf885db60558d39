"""Lengths: hints, measuring, and what each must never do."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.meta.harness import CHUNK, Room

from threefs.client.meta.types import LengthHint
from threefs.common.errors import Timeout
from threefs.common.ids import ROOT_INODE, InodeId

pytestmark = pytest.mark.unit


def test_hints_grow_the_length_and_set_the_time(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        id = opened.inode.id
        room.write(id, opened.inode.layout.chains if opened.inode.layout else (), 5000)
        synced = await room.client.sync(id, LengthHint(5000, 0, mtime_us=opened.inode.mtime_us + 777))
        assert (synced.length, synced.mtime_us) == (5000, opened.inode.mtime_us + 777)
        assert synced.ctime_us == synced.mtime_us
        smaller = await room.client.sync(id, LengthHint(10, 0))
        assert smaller == synced
        assert (await room.client.close(id, opened.session, LengthHint(6000, 0))).length == 6000

    room.run(body)


def test_a_hint_costs_no_storage_and_its_absence_does(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        id = opened.inode.id
        assert opened.inode.layout is not None
        room.write(id, opened.inode.layout.chains, 4 * CHUNK + 9)
        await room.client.sync(id, LengthHint(100, 0, 1))
        await room.client.report_lengths([(id, LengthHint(200, 0, 1))])
        assert room.storage.calls == []
        assert (await room.client.stat(id)).length == 200
        assert (await room.client.sync(id, LengthHint(300, 0), precise=True)).length == 4 * CHUNK + 9
        assert room.storage.calls == ["query_last_chunk"] * 3

    room.run(body)


def test_a_stale_hint_of_a_writer_is_measured(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        id, layout = opened.inode.id, opened.inode.layout
        assert layout is not None
        room.write(id, layout.chains, 4 * CHUNK)
        await room.client.truncate(id, CHUNK)
        assert (await room.client.sync(id, LengthHint(4 * CHUNK, 0))).length == CHUNK  # had not written since
        room.storage.put(layout.chains[2], id, 2, 11)  # wrote after the cut, and does not know of it
        assert (await room.client.sync(id, LengthHint(2 * CHUNK + 11, 0, mtime_us=5))).length == 2 * CHUNK + 11

    room.run(body)


def test_reports_skip_what_is_gone(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        hints = [(InodeId(0x123456 + n), LengthHint(9, 0)) for n in range(80)]
        await room.client.report_lengths([*hints, (opened.inode.id, LengthHint(9, 0)), (ROOT_INODE, LengthHint(9, 0))])
        assert (await room.client.stat(opened.inode.id)).length == 9
        await room.client.report_lengths([(opened.inode.id, LengthHint(99, 7))])
        assert (await room.client.stat(opened.inode.id)).length == 9

    room.run(body)


def test_closing_twice_sets_the_time_once(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        id = opened.inode.id
        await room.client.close(id, opened.session, LengthHint(5, 0, mtime_us=1000))
        await room.client.setattr(id, mtime_us=7)
        again = await room.client.close(id, opened.session, LengthHint(5, 0, mtime_us=1000))
        assert again.mtime_us == 7

    room.run(body)


def test_measuring_while_storage_is_silent_fails_and_changes_nothing(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        room.storage.failing = True
        with pytest.raises(Timeout):
            await room.client.close(opened.inode.id, opened.session, None)
        room.storage.failing = False
        await room.client.close(opened.inode.id, opened.session, None)

    room.run(body)


@settings(max_examples=30)
@given(
    writes=st.lists(st.integers(0, 6 * CHUNK), min_size=1, max_size=8),
    daemons=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_the_length_is_the_furthest_write_whatever_the_order(writes: list[int], daemons: int, seed: int) -> None:
    room = Room(seed=seed, daemons=daemons)

    async def body() -> None:
        for daemon in room.daemons:
            daemon.engine.faults.latency_s = 0.01
            daemon.engine.faults.maybe_committed = 0.1
        opened = await room.client.create(ROOT_INODE, b"f", flags=os.O_RDONLY)
        id, layout = opened.inode.id, opened.inode.layout
        assert layout is not None

        async def writer(end: int) -> None:
            mine = await room.client.open(id, os.O_WRONLY)
            room.write(id, layout.chains, end)
            hint = LengthHint(end, 0, 1) if end % 2 else None
            await room.client.close(id, mine.session, hint)

        await asyncio.gather(*(writer(end) for end in writes))
        assert (await room.client.stat(id)).length == max(writes)

    room.run(body)
