"""Lookups of mounts' receiving threads answer as `stat` does, or send the caller there."""

from __future__ import annotations

import errno
import itertools
import stat

import pytest
from tests.meta.harness import Room

from threefs.common.errors import Corrupt, FileError
from threefs.common.files import Credentials
from threefs.common.ids import ROOT_INODE, InodeId
from threefs.common.kv.memory import MemoryFaults
from threefs.common.net.interface import Reply, Request
from threefs.meta.quick_lookup import QuickLookup, attributes_of
from threefs.proto import lookup
from threefs.proto.lookup import ASK_IN_FULL, FOUND, NO_SUCH_NAME, Ask

pytestmark = pytest.mark.unit
USERS = [Credentials(0, 0), Credentials(5, 50), Credentials(6, 60), Credentials(6, 60, (50,)), Credentials(7, 50)]


def ask(room: Room, parent: InodeId, name: bytes, user: Credentials) -> Reply | None:
    body = lookup.pack_ask(Ask(parent, user.uid, user.gid, name))
    return QuickLookup(room.env).at_once(Request(lookup.METHOD, body))


def test_answers_are_those_of_stat(room: Room) -> None:
    async def body() -> None:
        client = room.client
        modes = [0o755, 0o750, 0o705, 0o700, 0o000]
        folders = [await client.mkdir(ROOT_INODE, b"d%o" % mode, mode=mode) for mode in modes]
        for folder in folders:
            await client.setattr(folder.id, uid=5, gid=50)
            await client.mkdir(folder.id, b"sub", mode=0o755)
            await client.symlink(folder.id, b"link", "sub/\udcff")
            await client.create(folder.id, b"file", mode=0o600)
        statuses = set()
        for folder, name, user in itertools.product(folders, [b"sub", b"link", b"file", b"none"], USERS):
            answer = ask(room, folder.id, name, user)
            assert answer is not None
            status, found = lookup.unpack_answer(answer.body)
            statuses.add(status)
            try:
                expected = FOUND, attributes_of(await client.lookup(folder.id, name, user=user))
            except FileError as exc:
                expected = (NO_SUCH_NAME if exc.errno == errno.ENOENT else ASK_IN_FULL), lookup.NOTHING
            in_full = status == ASK_IN_FULL and user.uid == 6  # whose groups are not known
            assert in_full or (status, found) == expected, (folder, name, user)
        assert statuses == {FOUND, NO_SUCH_NAME, ASK_IN_FULL}

    room.run(body)


def test_what_stat_shows(room: Room) -> None:
    async def body() -> None:
        made = await room.client.symlink(ROOT_INODE, b"l", "ä" * 10)
        answer = ask(room, ROOT_INODE, b"l", USERS[0])
        assert answer is not None
        _, found = lookup.unpack_answer(answer.body)
        assert (found.inode, found.size, stat.S_ISLNK(found.mode), found.blocks) == (made.id, 20, True, 0)

    room.run(body)


def test_what_is_not_plain_is_asked_in_full(room: Room) -> None:
    async def body() -> None:
        await room.client.mkdir(ROOT_INODE, b"d")
        for name in (b".", b"..", b"d/x"):
            answer = ask(room, ROOT_INODE, name, USERS[0])
            assert answer is not None
            assert answer.body[0] == ASK_IN_FULL
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        answer = ask(room, file.id, b"x", USERS[1])
        assert answer is not None
        assert answer.body[0] == ASK_IN_FULL  # ENOTDIR
        room.env.config = room.env.config.model_copy(update={"authenticate": True})
        answer = ask(room, ROOT_INODE, b"d", USERS[0])
        assert answer is not None
        assert answer.body[0] == ASK_IN_FULL
        room.env.config = room.env.config.model_copy(update={"authenticate": False})

    room.run(body)


def test_who_would_wait_is_not_answered_at_once(room: Room) -> None:
    async def body() -> None:
        room.daemons[0].engine.faults = MemoryFaults(throttled=1.0)
        assert ask(room, ROOT_INODE, b"x", USERS[0]) is None
        room.daemons[0].engine.faults = MemoryFaults()
        handler = QuickLookup(room.env)
        assert handler.at_once(Request(lookup.METHOD, b"short")) is None
        with pytest.raises(Corrupt, match="a lookup of 5 bytes"):
            await handler(Request(lookup.METHOD, b"short"))
        reply = await handler(Request(lookup.METHOD, lookup.pack_ask(Ask(ROOT_INODE, 0, 0, b"x"))))
        assert reply.body[0] == NO_SUCH_NAME

    room.run(body)
