"""Accounts and tokens."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from tests.meta.harness import ALICE, CONFIG, ROOT, Room, refused

from threefs.client.meta.types import User
from threefs.client.meta.users import get_user, list_users, put_user, remove_user, who_am_i
from threefs.common.errors import Conflict, NotFound, Unauthenticated
from threefs.common.files import Credentials
from threefs.common.ids import ROOT_INODE
from threefs.meta.users import TOKENS_MAX

pytestmark = pytest.mark.unit
HOUR_US = 3_600_000_000
ANN = User(1000, "ann", 1000, (50, 60))
OPERATOR = User(0, "root", 0, root=True, admin=True)


def _secured() -> Room:
    return Room(config=CONFIG.model_copy(update={"authenticate": True}))


def test_accounts(room: Room) -> None:
    async def body() -> None:
        made, token = await put_user(room.client, ANN)
        assert (made, token) == (ANN, "")
        changed, _ = await put_user(room.client, replace(ANN, name="anna", admin=True))
        assert await get_user(room.client, 1000) == changed
        await put_user(room.client, User(7, "b", 7))
        assert [user.uid for user in await list_users(room.client)] == [7, 1000]
        with pytest.raises(Conflict, match="1000"):
            await put_user(room.client, ANN, create_only=True)
        await remove_user(room.client, 1000)
        await remove_user(room.client, 1000)
        with pytest.raises(NotFound, match="user list"):
            await get_user(room.client, 1000)
        await refused(errno.EPERM, put_user(room.client, ANN, user=ALICE))
        assert (await who_am_i(room.client, user=ALICE)).uid == 1000

    room.run(body)


def test_with_authentication_the_token_decides() -> None:
    room = _secured()

    async def body() -> None:
        _, root_token = await put_user(room.client, OPERATOR, new_token=True)  # the first account needs none
        root = replace(ROOT, token=root_token)
        room.client.user = root
        _, token = await put_user(room.client, ANN, new_token=True)
        ann = Credentials(0, 0, (), token)  # what she claims to be does not count
        await refused(errno.EACCES, room.client.mkdir(ROOT_INODE, b"d", user=ann))
        await room.client.setattr(ROOT_INODE, mode=0o777)
        made = await room.client.mkdir(ROOT_INODE, b"d", user=ann)
        assert (made.uid, made.gid) == (1000, 1000)
        await room.client.setattr(made.id, gid=60, user=ann)  # her groups are those of her account
        assert (await who_am_i(room.client, user=ann)).name == "ann"
        for_bob = await room.client.mkdir(ROOT_INODE, b"e", user=Credentials(1001, 1001, (), root_token))
        assert for_bob.uid == 1001  # root's token acts for anybody
        await refused(errno.EPERM, put_user(room.client, User(5, "x", 5), user=ann))

    room.run(body)


def test_bad_tokens() -> None:
    room = _secured()

    async def body() -> None:
        _, root_token = await put_user(room.client, OPERATOR, new_token=True)
        room.client.user = replace(ROOT, token=root_token)
        _, token = await put_user(room.client, ANN, new_token=True, token_lifetime_us=HOUR_US)
        for bad, reason in (
            ("", "needed"),
            ("nonsense", "no token"),
            ("3fs1.x.y", "no token"),
            (token[:-1] + ("A" if token[-1] != "A" else "B"), "wrong"),
            (token.replace("3fs1.1000", "3fs1.0"), "wrong"),
            (token.replace("3fs1.1000", "3fs1.77"), "wrong"),
        ):
            with pytest.raises(Unauthenticated, match=reason):
                await room.client.stat(ROOT_INODE, user=Credentials(0, 0, (), bad))
        good = Credentials(0, 0, (), token)
        await room.client.stat(ROOT_INODE, user=good)
        await room.tick(3601)
        with pytest.raises(Unauthenticated, match="expired"):
            await room.client.stat(ROOT_INODE, user=good)

    room.run(body)


def test_new_tokens_and_old_ones() -> None:
    room = _secured()

    async def body() -> None:
        _, root_token = await put_user(room.client, OPERATOR, new_token=True)
        room.client.user = replace(ROOT, token=root_token)
        _, first = await put_user(room.client, ANN, new_token=True)
        _, second = await put_user(room.client, ANN, new_token=True, grace_us=HOUR_US)
        for token in (first, second):
            assert (await who_am_i(room.client, user=Credentials(0, 0, (), token))).uid == 1000
        await room.tick(3601)
        with pytest.raises(Unauthenticated, match="expired"):
            await who_am_i(room.client, user=Credentials(0, 0, (), first))
        stored, third = await put_user(room.client, ANN, new_token=True, revoke_tokens=True)
        assert stored.token_ends_us == (0,)
        await room.tick(CONFIG.tuning.user_cache_s + 1)
        with pytest.raises(Unauthenticated, match="revoked"):
            await who_am_i(room.client, user=Credentials(0, 0, (), second))
        await who_am_i(room.client, user=Credentials(0, 0, (), third))
        for _ in range(TOKENS_MAX + 3):
            stored, _ = await put_user(room.client, ANN, new_token=True)
        assert len(stored.token_ends_us) == TOKENS_MAX

    room.run(body)


def test_the_store_keeps_no_secret() -> None:
    room = _secured()

    async def body() -> None:
        _, token = await put_user(room.client, OPERATOR, new_token=True)
        room.client.user = replace(ROOT, token=token)
        records = await room.env.engine.begin().get_range(b"USER", b"USES")
        assert len(records) == 1
        assert token.split(".")[2].encode() not in records[0][1]

    room.run(body)
