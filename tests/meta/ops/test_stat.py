"""stat: by inode, by name, by path; batches."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, Room, refused

from threefs.common.errors import BadRequest, FileError
from threefs.common.files import At, FileType, Inode
from threefs.common.ids import GC_ROOT_INODE, ROOT_INODE, ClientId, InodeId, RequestId
from threefs.meta.context import Context
from threefs.meta.ops.stat import BATCH_ITEMS_MAX, batch_stat

pytestmark = pytest.mark.unit


def test_the_root(room: Room) -> None:
    async def body() -> None:
        root = await room.client.stat(ROOT_INODE)
        assert (root.type, root.mode, root.nlink, root.parent) == (FileType.DIRECTORY, 0o755, 2, ROOT_INODE)
        for path in ("/", "", ".", "/..", "//"):
            assert (await room.client.stat_path(path)).id == ROOT_INODE

    room.run(body)


def test_paths(room: Room) -> None:
    async def body() -> None:
        await room.client.mkdirs(ROOT_INODE, "/a/b")
        inner = await room.client.create(ROOT_INODE, "/a/b/f")
        await room.client.symlink(ROOT_INODE, "/a/up", "../a/b")
        await room.client.symlink(ROOT_INODE, "/a/b/to-f", "f")
        for path in ("/a/b/f", "a/b/f", "/a/./b//f", "/a/b/../b/f", "/a/up/f", "/a/up/to-f"):
            assert (await room.client.stat_path(path)).id == inner.inode.id, path
        assert (await room.client.stat_path("/a/b/to-f", follow=False)).type is FileType.SYMLINK
        assert (await room.client.stat_path("/a/up/", follow=False)).type is FileType.DIRECTORY
        b = await room.client.stat_path("/a/b")
        assert (await room.client.stat_path("f", base=b.id)).id == inner.inode.id
        await refused(errno.ENOENT, room.client.stat_path("/a/c"))
        await refused(errno.ENOENT, room.client.stat_path("/x/y"))
        await refused(errno.ENOTDIR, room.client.stat_path("/a/b/f/g"))
        await refused(errno.ENOTDIR, room.client.stat_path("/a/b/f/"))
        await refused(errno.ENOENT, room.client.stat(InodeId(0x777777)))

    room.run(body)


def test_symlinks_in_a_circle(room: Room) -> None:
    async def body() -> None:
        await room.client.symlink(ROOT_INODE, "a", "b")
        await room.client.symlink(ROOT_INODE, "b", "a")
        await refused(errno.ELOOP, room.client.stat_path("/a"))
        for number in range(41):
            await room.client.symlink(ROOT_INODE, f"chain{number}", f"chain{number + 1}")
        await room.client.create(ROOT_INODE, "chain41")
        await refused(errno.ELOOP, room.client.stat_path("/chain0"))
        assert (await room.client.stat_path("/chain1")).type is FileType.FILE  # 40 links are followed

    room.run(body)


def test_search_permission(room: Room) -> None:
    async def body() -> None:
        private = await room.client.mkdir(ROOT_INODE, b"private", mode=0o744)
        await room.client.create(private.id, b"f")
        await refused(errno.EACCES, room.client.stat_path("/private/f", user=ALICE))
        await refused(errno.EACCES, room.client.lookup(private.id, b"f", user=ALICE))
        assert (await room.client.stat_path("/private", user=ALICE)).id == private.id

    room.run(body)


def test_a_batch_answers_each_place(room: Room) -> None:
    async def body() -> None:
        made = (await room.client.create(ROOT_INODE, b"f")).inode
        places = [At(ROOT_INODE, b"f"), At(ROOT_INODE, b"missing"), At(made.id), At(GC_ROOT_INODE), At(InodeId(0x555))]
        found = await room.client.batch_stat(places)
        assert found[0] == found[2] == made
        assert isinstance(found[1], FileError)
        assert found[1].errno == errno.ENOENT
        assert isinstance(found[3], Inode)
        assert isinstance(found[4], FileError)
        many = await room.client.batch_stat([At(ROOT_INODE, b"f")] * 3000)
        assert many == [made] * 3000

    room.run(body)


def test_a_batch_has_a_limit(room: Room) -> None:
    async def body() -> None:
        ctx = Context(room.env, ALICE, ClientId(b""), RequestId(b""), 0)
        with pytest.raises(BadRequest, match="4097"):
            await batch_stat(ctx, [At()] * (BATCH_ITEMS_MAX + 1), follow=False)

    room.run(body)
