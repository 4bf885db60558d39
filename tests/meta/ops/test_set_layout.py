"""set layout."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, CHUNK, Room, refused

from threefs.client.meta.transport import new_request_id
from threefs.common.errors import BadRequest, NotServing
from threefs.common.files import At, Credentials, Layout
from threefs.common.ids import ROOT_INODE, ChainTableId, ClientId
from threefs.meta.context import Context
from threefs.meta.ops.set_layout import set_layout

pytestmark = pytest.mark.unit
ANY_TABLE = ChainTableId(0)


def test_for_what_is_created_later(room: Room) -> None:
    async def body() -> None:
        made = await room.client.mkdir(ROOT_INODE, b"d")
        old = (await room.client.create(made.id, b"old")).inode
        changed = await room.client.set_layout(made.id, Layout(ANY_TABLE, 0, 0, 2))
        assert changed.layout == Layout(ChainTableId(1), 0, CHUNK, 2)
        new = (await room.client.create(made.id, b"new")).inode
        assert new.layout is not None
        assert len(new.layout.chains) == 2
        assert (await room.client.stat(old.id)).layout == old.layout

    room.run(body)


def test_refusals(room: Room) -> None:
    async def body() -> None:
        await room.client.create(ROOT_INODE, b"f")
        await refused(errno.ENOTDIR, room.client.set_layout(ROOT_INODE, Layout(ANY_TABLE, 0, CHUNK, 0), path=b"f"))
        await refused(errno.EPERM, room.client.set_layout(ROOT_INODE, Layout(ANY_TABLE, 0, CHUNK, 0), user=ALICE))
        for bad in (
            Layout(ANY_TABLE, 0, CHUNK + 1, 0),
            Layout(ANY_TABLE, 0, 128 << 20, 0),
            Layout(ANY_TABLE, 0, 0, 9999),
        ):
            with pytest.raises(BadRequest):
                await room.client.set_layout(ROOT_INODE, bad)

    room.run(body)


def test_a_table_that_is_not_there(room: Room) -> None:
    async def body() -> None:
        ctx = Context(
            room.env, Credentials(0, 0), ClientId(bytes(16)), new_request_id(room.runtime), room.runtime.wall_us()
        )
        with pytest.raises(NotServing, match="chain table 9"):
            await set_layout(ctx, At(), Layout(ChainTableId(9), 0, 0, 0))

    room.run(body)
