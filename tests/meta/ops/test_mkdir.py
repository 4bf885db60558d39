"""mkdir: link counts, modes, inheritance, and mkdir -p."""

from __future__ import annotations

import asyncio
import errno
import stat

import pytest
from tests.meta.harness import ALICE, CHUNK, Room, refused

from threefs.common.files import FileType, Layout
from threefs.common.ids import ROOT_INODE, ChainTableId

pytestmark = pytest.mark.unit


def test_link_counts(room: Room) -> None:
    async def body() -> None:
        made = await room.client.mkdir(ROOT_INODE, b"d", mode=0o7777)
        assert (made.type, made.nlink, made.parent) == (FileType.DIRECTORY, 2, ROOT_INODE)
        assert made.mode == 0o777 | stat.S_ISVTX  # mkdir takes no setuid and setgid
        await room.client.mkdir(made.id, b"e")
        assert (await room.client.stat(made.id)).nlink == 3
        assert (await room.client.stat(ROOT_INODE)).nlink == 3

    room.run(body)


def test_refusals(room: Room) -> None:
    async def body() -> None:
        await room.client.mkdir(ROOT_INODE, b"d")
        for taken in (b"d", b"d/", b".", b"/"):
            await refused(errno.EEXIST, room.client.mkdir(ROOT_INODE, taken))
        await room.client.symlink(ROOT_INODE, b"dangling", b"nowhere")
        await refused(errno.EEXIST, room.client.mkdir(ROOT_INODE, b"dangling"))
        await refused(errno.ENOENT, room.client.mkdir(ROOT_INODE, b"x/y"))
        await refused(errno.EACCES, room.client.mkdir(ROOT_INODE, b"e", user=ALICE))

    room.run(body)


def test_setgid_is_inherited(room: Room) -> None:
    async def body() -> None:
        above = await room.client.mkdir(ROOT_INODE, b"d")
        await room.client.setattr(above.id, mode=0o2777, gid=77)
        below = await room.client.mkdir(above.id, b"e", user=ALICE)
        assert (below.uid, below.gid, below.mode) == (1000, 77, 0o2755)

    room.run(body)


def test_layouts_are_inherited_and_can_be_given(room: Room) -> None:
    async def body() -> None:
        plain = await room.client.mkdir(ROOT_INODE, b"d")
        assert plain.layout == (await room.client.stat(ROOT_INODE)).layout
        own = await room.client.mkdir(ROOT_INODE, b"e", layout=Layout(ChainTableId(0), 0, 4 * CHUNK, 0))
        below = await room.client.mkdir(own.id, b"f")
        assert below.layout == own.layout == Layout(ChainTableId(1), 0, 4 * CHUNK, 3)
        made = await room.client.create(below.id, b"g")
        assert made.inode.layout is not None
        assert made.inode.layout.chunk_bytes == 4 * CHUNK

    room.run(body)


def test_with_parents(room: Room) -> None:
    async def body() -> None:
        deep = await room.client.mkdirs(ROOT_INODE, "/a/b/c")
        assert (await room.client.stat_path("/a/b/c")).id == deep.id
        assert (await room.client.mkdirs(ROOT_INODE, "/a/b/c")).id == deep.id
        assert (await room.client.mkdirs(ROOT_INODE, "/")).id == ROOT_INODE
        assert (await room.client.mkdirs(deep.id, "../d/")).parent == deep.parent
        await room.client.create(ROOT_INODE, "/a/f")
        await refused(errno.ENOTDIR, room.client.mkdirs(ROOT_INODE, "/a/f/g"))
        await refused(errno.EACCES, room.client.mkdirs(ROOT_INODE, "/a/x/y", user=ALICE))

    room.run(body)


def test_many_at_once_in_one_directory(room: Room) -> None:
    async def body() -> None:
        await asyncio.gather(*(room.client.mkdir(ROOT_INODE, b"d%d" % i) for i in range(40)))
        assert (await room.client.stat(ROOT_INODE)).nlink == 42

    room.run(body)
