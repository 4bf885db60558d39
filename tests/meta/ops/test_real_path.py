"""real path."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import Room, refused

from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


def test_real_paths(room: Room) -> None:
    async def body() -> None:
        deep = await room.client.mkdirs(ROOT_INODE, "/a/b/c")
        file = await room.client.create(deep.id, "f")
        await room.client.symlink(ROOT_INODE, "/a/s", "b/c/")
        for path, expected in (
            ("/", b"/"),
            ("/a/./b/../b", b"/a/b"),
            ("/a/s/f", b"/a/b/c/f"),
            ("/a/s", b"/a/b/c"),
            ("/a/s/..", b"/a/b"),
        ):
            assert await room.client.real_path(path) == expected
        assert await room.client.real_path("f", base=deep.id) == b"/a/b/c/f"
        assert await room.client.real_path("", base=deep.id) == b"/a/b/c"
        await refused(errno.ENOENT, room.client.real_path("/a/x"))
        await refused(errno.EINVAL, room.client.real_path("", base=file.inode.id))
        await room.client.remove_recursive(ROOT_INODE, "a")
        await refused(errno.ENOENT, room.client.real_path("", base=deep.id))

    room.run(body)
