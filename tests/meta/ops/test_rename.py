"""rename: over what is there, across directories, loops, exchange, permissions."""

from __future__ import annotations

import asyncio
import errno

import pytest
from tests.meta.harness import ALICE, BOB, Room, refused

from threefs.client.meta.types import RenameFlags
from threefs.common.errors import FileError
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_a_name_moves(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        target = await room.client.mkdir(ROOT_INODE, b"d")
        await room.tick()
        moved = await room.client.rename(ROOT_INODE, b"f", target.id, b"g")
        assert moved.id == file.id
        assert moved.ctime_us > file.ctime_us
        assert moved.mtime_us == file.mtime_us
        await refused(errno.ENOENT, room.client.lookup(ROOT_INODE, b"f"))
        assert (await room.client.stat_path("/d/g")).id == file.id
        for directory in (ROOT_INODE, target.id):
            assert (await room.client.stat(directory)).mtime_us == moved.ctime_us

    room.run(body)


def test_over_a_file(room: Room) -> None:
    async def body() -> None:
        old = (await room.client.create(ROOT_INODE, b"old")).inode
        new = (await room.client.create(ROOT_INODE, b"new")).inode
        await room.client.rename(ROOT_INODE, b"new", ROOT_INODE, b"old")
        assert (await room.client.lookup(ROOT_INODE, b"old")).id == new.id
        assert (await room.client.stat(old.id)).nlink == 0
        await refused(errno.EEXIST, _noreplace(room, b"old", b"old"))
        await room.client.create(ROOT_INODE, b"other")
        await refused(errno.EEXIST, _noreplace(room, b"other", b"old"))
        await _noreplace(room, b"other", b"fresh")

    room.run(body)


async def _noreplace(room: Room, source: bytes, target: bytes) -> None:
    await room.client.rename(ROOT_INODE, source, ROOT_INODE, target, flags=RenameFlags.NOREPLACE)


def test_directories(room: Room) -> None:
    async def body() -> None:
        for name in ("a", "b", "a/in", "full", "full/x"):
            await room.client.mkdir(ROOT_INODE, name)
        moved = await room.client.rename(ROOT_INODE, "a/in", ROOT_INODE, "b/in")
        b = await room.client.stat_path("/b")
        assert moved.parent == b.id
        assert b.nlink == 3
        assert (await room.client.stat_path("/a")).nlink == 2
        await refused(errno.ENOTEMPTY, room.client.rename(ROOT_INODE, "a", ROOT_INODE, "full"))
        replaced = await room.client.stat_path("/a")
        await room.client.rename(ROOT_INODE, "full", ROOT_INODE, "a")
        assert (await room.client.stat(replaced.id)).nlink == 0
        assert (await room.client.stat_path("/a/x")).type.name == "DIRECTORY"
        await room.client.create(ROOT_INODE, "f")
        await refused(errno.ENOTDIR, room.client.rename(ROOT_INODE, "a", ROOT_INODE, "f"))
        await refused(errno.EISDIR, room.client.rename(ROOT_INODE, "f", ROOT_INODE, "b"))
        await refused(errno.ENOTDIR, room.client.rename(ROOT_INODE, "f", ROOT_INODE, "fresh/"))
        assert (await room.client.rename(ROOT_INODE, "a/", ROOT_INODE, "c/")).nlink == 3

    room.run(body)


def test_loops(room: Room) -> None:
    async def body() -> None:
        await room.client.mkdirs(ROOT_INODE, "/a/b/c")
        for target in ("/a/x", "/a/b/x", "/a/b/c/x", "/a/b"):
            await refused(errno.EINVAL, room.client.rename(ROOT_INODE, "/a", ROOT_INODE, target))
        await refused(errno.ENOTEMPTY, room.client.rename(ROOT_INODE, "/a/b/c", ROOT_INODE, "/a"))
        for unnamed in ("/", ".", "/a/.."):
            await refused(errno.EBUSY, room.client.rename(ROOT_INODE, unnamed, ROOT_INODE, "x"))
            await refused(errno.EBUSY, room.client.rename(ROOT_INODE, "a", ROOT_INODE, unnamed))

    room.run(body)


def test_two_renames_that_would_cut_a_loop_off(room: Room) -> None:
    async def move(source: str, target: str) -> str:
        try:
            await room.client.rename(ROOT_INODE, source, ROOT_INODE, target)
        except FileError as exc:
            return errno.errorcode[exc.errno]
        return "ok"

    async def body() -> None:
        room.daemons[0].engine.faults.latency_s = 0.01
        for round in range(20):
            await room.client.mkdirs(ROOT_INODE, f"/{round}/a")
            await room.client.mkdirs(ROOT_INODE, f"/{round}/b")
            results = await asyncio.gather(move(f"/{round}/a", f"/{round}/b/a"), move(f"/{round}/b", f"/{round}/a/b"))
            assert sorted(results) in (["ENOENT", "ok"], ["EINVAL", "ok"]), results

    room.run(body)


def test_hard_links_to_one_inode_stay(room: Room) -> None:
    async def body() -> None:
        file = (await room.client.create(ROOT_INODE, b"f")).inode
        await room.client.link(file.id, ROOT_INODE, b"g")
        await room.client.rename(ROOT_INODE, b"f", ROOT_INODE, b"g")
        assert (await room.client.lookup(ROOT_INODE, b"f")).nlink == 2
        await room.client.rename(ROOT_INODE, b"f", ROOT_INODE, b"f")

    room.run(body)


def test_exchange(room: Room) -> None:
    async def body() -> None:
        await room.client.mkdirs(ROOT_INODE, "/a/deep")
        await room.client.mkdirs(ROOT_INODE, "/b")
        file = (await room.client.create(ROOT_INODE, "/b/f")).inode
        deep = await room.client.stat_path("/a/deep")
        await room.client.rename(ROOT_INODE, "/a/deep", ROOT_INODE, "/b/f", flags=RenameFlags.EXCHANGE)
        assert (await room.client.stat_path("/a/deep")).id == file.id
        assert (await room.client.stat_path("/b/f")).id == deep.id
        assert (await room.client.stat_path("/a")).nlink == 2
        assert (await room.client.stat_path("/b")).nlink == 3
        exchange = RenameFlags.EXCHANGE
        await refused(errno.ENOENT, room.client.rename(ROOT_INODE, "a", ROOT_INODE, "c", flags=exchange))
        await refused(errno.EINVAL, room.client.rename(ROOT_INODE, "b", ROOT_INODE, "b/f", flags=exchange))
        await refused(errno.EINVAL, room.client.rename(ROOT_INODE, "b/f", ROOT_INODE, "b", flags=exchange))
        await room.client.rename(ROOT_INODE, "a", ROOT_INODE, "b", flags=exchange)
        both = RenameFlags.EXCHANGE | RenameFlags.NOREPLACE
        await refused(errno.EINVAL, room.client.rename(ROOT_INODE, "a", ROOT_INODE, "b", flags=both))

    room.run(body)


def test_permissions(room: Room) -> None:
    async def body() -> None:
        await room.client.setattr(ROOT_INODE, mode=0o1777)
        await room.client.mkdir(ROOT_INODE, b"alice", user=ALICE)
        await room.client.mkdir(ROOT_INODE, b"bob", mode=0o777, user=BOB)
        await room.client.setattr(ROOT_INODE, path=b"bob", mode=0o777)
        await refused(errno.EPERM, room.client.rename(ROOT_INODE, "alice", ROOT_INODE, "x", user=BOB))
        await room.client.create(ROOT_INODE, "alice/f", user=ALICE)
        await refused(errno.EACCES, room.client.rename(ROOT_INODE, "alice/f", ROOT_INODE, "bob/f", user=BOB))
        await room.client.rename(ROOT_INODE, "alice/f", ROOT_INODE, "bob/f", user=ALICE)
        # A directory that changes its parent is written: its ".." changes.
        await room.client.mkdir(ROOT_INODE, "bob/sealed", mode=0o555, user=ALICE)
        await refused(errno.EACCES, room.client.rename(ROOT_INODE, "bob/sealed", ROOT_INODE, "alice/s", user=ALICE))
        await room.client.rename(ROOT_INODE, "bob/sealed", ROOT_INODE, "bob/other", user=ALICE)

    room.run(body)
