"""create: new files, existing ones, who may, what is inherited."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest
from tests.meta.harness import ALICE, BOB, CHUNK, Room, refused

from threefs.common.files import FileType, Layout
from threefs.common.ids import ROOT_INODE, ChainTableId

pytestmark = pytest.mark.unit


def test_a_new_file_belongs_to_its_creator(room: Room) -> None:
    async def body() -> None:
        await room.client.setattr(ROOT_INODE, mode=0o777)
        opened = await room.client.create(ROOT_INODE, b"f", mode=0o640, user=ALICE)
        inode = opened.inode
        assert opened.created
        assert opened.session is not None
        assert (inode.type, inode.mode, inode.uid, inode.gid, inode.nlink) == (FileType.FILE, 0o640, 1000, 1000, 1)
        assert inode.length == 0
        assert inode.layout is not None
        assert (inode.layout.chunk_bytes, inode.layout.stripe, len(set(inode.layout.chains))) == (CHUNK, 3, 3)
        assert await room.client.lookup(ROOT_INODE, b"f") == inode
        await room.client.close(inode.id, opened.session, None)

    room.run(body)


def test_the_directory_changes_with_it(room: Room) -> None:
    async def body() -> None:
        before = await room.client.stat(ROOT_INODE)
        await room.tick()
        await room.client.create(ROOT_INODE, b"f")
        after = await room.client.stat(ROOT_INODE)
        assert after.mtime_us == after.ctime_us > before.mtime_us
        assert (after.nlink, after.atime_us) == (before.nlink, before.atime_us)

    room.run(body)


def test_an_existing_file_is_opened_or_refused(room: Room) -> None:
    async def body() -> None:
        first = await room.client.create(ROOT_INODE, b"f", mode=0o600)
        again = await room.client.create(ROOT_INODE, b"f", mode=0o644)
        assert not again.created
        assert again.inode.id == first.inode.id
        assert again.inode.mode == 0o600
        await refused(errno.EEXIST, room.client.create(ROOT_INODE, b"f", flags=os.O_RDWR | os.O_EXCL))
        await refused(errno.EACCES, room.client.create(ROOT_INODE, b"f", user=ALICE))
        await room.client.mkdir(ROOT_INODE, b"d")
        await refused(errno.EISDIR, room.client.create(ROOT_INODE, b"d"))
        await refused(errno.EEXIST, room.client.create(ROOT_INODE, b"d", flags=os.O_EXCL | os.O_WRONLY))

    room.run(body)


def test_o_trunc_empties_an_existing_file(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        inode = opened.inode
        assert inode.layout is not None
        room.write(inode.id, inode.layout.chains, 5 * CHUNK)
        await room.client.close(inode.id, opened.session, None)
        again = await room.client.create(ROOT_INODE, b"f", flags=os.O_WRONLY | os.O_TRUNC)
        assert again.inode.length == 0
        assert again.inode.truncate_version == 1
        assert room.stored(inode.id) == {}

    room.run(body)


def test_who_may_create(room: Room) -> None:
    async def body() -> None:
        await refused(errno.EACCES, room.client.create(ROOT_INODE, b"f", user=ALICE))
        shared = await room.client.mkdir(ROOT_INODE, b"shared", mode=0o770)
        await room.client.setattr(shared.id, gid=50)
        await room.client.create(shared.id, b"of-alice", user=ALICE)  # 50 is one of her groups
        await refused(errno.EACCES, room.client.create(shared.id, b"of-bob", user=BOB))
        sealed = await room.client.create(shared.id, b"sealed", mode=0o000, user=ALICE)
        assert sealed.session is not None  # a new file may be written whatever its mode

    room.run(body)


def test_setgid_directories_give_their_group(room: Room) -> None:
    async def body() -> None:
        shared = await room.client.mkdir(ROOT_INODE, b"shared")
        await room.client.setattr(shared.id, mode=0o2777, gid=77)
        plain = (await room.client.create(shared.id, b"f", mode=0o644, user=ALICE)).inode
        assert (plain.gid, plain.mode) == (77, 0o644)
        stripped = (await room.client.create(shared.id, b"g", mode=0o2755, user=ALICE)).inode
        assert stripped.mode == 0o755
        kept = (await room.client.create(shared.id, b"h", mode=0o2755, user=replace(ALICE, groups=(77,)))).inode
        assert kept.mode == 0o2755

    room.run(body)


def test_names(room: Room) -> None:
    async def body() -> None:
        longest = b"\xff" * 255
        made = await room.client.create(ROOT_INODE, longest)
        assert (await room.client.lookup(ROOT_INODE, longest)).id == made.inode.id
        await refused(errno.ENAMETOOLONG, room.client.create(ROOT_INODE, b"x" * 256))
        await refused(errno.ENAMETOOLONG, room.client.create(ROOT_INODE, b"d/" * 2048 + b"x"))
        await refused(errno.EINVAL, room.client.create(ROOT_INODE, b"a\x00b"))
        await refused(errno.EISDIR, room.client.create(ROOT_INODE, b"new/"))
        await refused(errno.EISDIR, room.client.create(ROOT_INODE, b".."))
        await refused(errno.ENOTDIR, room.client.create(made.inode.id, b"below-a-file"))

    room.run(body)


def test_paths_and_symlinks(room: Room) -> None:
    async def body() -> None:
        await room.client.mkdirs(ROOT_INODE, "/a/b")
        await room.client.symlink(ROOT_INODE, "link", "a/b")
        await room.client.symlink(ROOT_INODE, "dangling", "/a/b/made")
        made = await room.client.create(ROOT_INODE, "dangling")
        assert made.created
        assert (await room.client.stat_path("/link/made")).id == made.inode.id
        await refused(errno.EEXIST, room.client.create(ROOT_INODE, "dangling", flags=os.O_RDWR | os.O_EXCL))
        await refused(errno.ENOENT, room.client.create(ROOT_INODE, "/a/missing/f"))

    room.run(body)


def test_a_layout_of_its_own(room: Room) -> None:
    async def body() -> None:
        made = await room.client.create(ROOT_INODE, b"f", layout=Layout(ChainTableId(0), 0, 4 << 20, 0))
        assert made.inode.layout is not None
        assert (made.inode.layout.chunk_bytes, len(made.inode.layout.chains)) == (4 << 20, 3)
        wide = await room.client.create(ROOT_INODE, b"g", layout=Layout(ChainTableId(0), 0, 0, 200))
        assert wide.inode.layout is not None
        assert len(wide.inode.layout.chains) == 4  # no more chains than the table has

    room.run(body)


def test_readers_have_no_session_unless_pinned(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f", flags=os.O_RDONLY)
        assert opened.session is None
        pinned = await room.client.create(ROOT_INODE, b"f", flags=os.O_RDONLY, pin=True)
        assert pinned.session is not None

    room.run(body)
