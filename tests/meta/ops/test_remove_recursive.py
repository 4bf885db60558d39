"""Recursive removal: at once, all or nothing, freed afterwards."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, BOB, CHUNK, Room, refused

from threefs.client.meta.scan import scan_garbage, scan_inodes
from threefs.common.ids import ROOT_INODE

pytestmark = pytest.mark.unit


async def _tree(room: Room, width: int) -> None:
    """A tree with files that have chunks, symlinks and empty directories, `width` of each in two directories."""
    for directory in ("/t", "/t/sub"):
        await room.client.mkdirs(ROOT_INODE, directory)
        for number in range(width):
            opened = await room.client.create(ROOT_INODE, f"{directory}/f{number}")
            assert opened.inode.layout is not None
            room.write(opened.inode.id, opened.inode.layout.chains, 2 * CHUNK)
            await room.client.close(opened.inode.id, opened.session, None)
            await room.client.symlink(ROOT_INODE, f"{directory}/s{number}", "f0")
            await room.client.mkdir(ROOT_INODE, f"{directory}/d{number}")


def test_a_tree_goes_at_once_and_is_freed(room: Room) -> None:
    async def body() -> None:
        await _tree(room, 30)
        kept = await room.client.link((await room.client.stat_path("/t/f0")).id, ROOT_INODE, "kept")
        await room.client.remove_recursive(ROOT_INODE, "t")
        await refused(errno.ENOENT, room.client.stat_path("/t"))
        assert (await room.client.stat(ROOT_INODE)).nlink == 2
        await room.collect()
        assert {inode.id async for inode in scan_inodes(room.client)} == {ROOT_INODE, 2, kept.id}
        assert [record async for record in scan_garbage(room.client)] == []
        assert {key[1] for key in room.storage.chunks} == {kept.id}
        assert (await room.client.stat(kept.id)).nlink == 1

    room.run(body)


def test_what_is_no_directory_is_unlinked(room: Room) -> None:
    async def body() -> None:
        await room.client.create(ROOT_INODE, b"f")
        await room.client.remove_recursive(ROOT_INODE, b"f")
        await refused(errno.ENOENT, room.client.lookup(ROOT_INODE, b"f"))
        await refused(errno.ENOENT, room.client.remove_recursive(ROOT_INODE, b"f"))
        await refused(errno.EBUSY, room.client.remove_recursive(ROOT_INODE, b"/"))

    room.run(body)


def test_whoever_may_not_remove_a_part_removes_nothing(room: Room) -> None:
    async def body() -> None:
        await room.client.setattr(ROOT_INODE, mode=0o777)
        await room.client.mkdirs(ROOT_INODE, "/t/deep/er", mode=0o777, user=ALICE)
        sealed = await room.client.stat_path("/t/deep/er")
        await room.client.create(sealed.id, b"f", user=ALICE)
        await room.client.setattr(sealed.id, mode=0o555)
        await refused(errno.EACCES, room.client.remove_recursive(ROOT_INODE, "t", user=ALICE))
        assert (await room.client.stat_path("/t/deep/er/f")).nlink == 1
        await room.client.setattr(sealed.id, mode=0o1777)
        await refused(errno.EPERM, room.client.remove_recursive(ROOT_INODE, "t", user=BOB))
        await room.client.unlink(sealed.id, b"f")
        await room.client.setattr(sealed.id, mode=0o000)
        await room.client.remove_recursive(ROOT_INODE, "t", user=ALICE)  # what is empty needs no permission of its own
        await room.collect()

    room.run(body)


def test_what_is_moved_out_in_time_stays(room: Room) -> None:
    async def body() -> None:
        await _tree(room, 2)
        sub = await room.client.stat_path("/t/sub")
        await room.client.remove_recursive(ROOT_INODE, "t")
        await room.client.rename(sub.id, "f0", ROOT_INODE, "saved")
        await room.collect()
        saved = await room.client.stat_path("/saved")
        assert len(room.stored(saved.id)) == 2

    room.run(body)
