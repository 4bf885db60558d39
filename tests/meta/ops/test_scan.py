"""scan: every record, page by page."""

from __future__ import annotations

import errno

import pytest
from tests.meta.harness import ALICE, Room, refused

from threefs.client.meta.scan import count_requests, scan_entries, scan_garbage, scan_inodes, scan_sessions
from threefs.common.ids import GC_ROOT_INODE, ROOT_INODE
from threefs.meta.ops.scan import scan
from threefs.proto import meta_pb2 as pb

pytestmark = pytest.mark.unit


def test_everything_is_seen_once(room: Room) -> None:
    async def body() -> None:
        ids = {ROOT_INODE, GC_ROOT_INODE}
        for number in range(7):
            made = await room.client.mkdir(ROOT_INODE, b"d%d" % number)
            opened = await room.client.create(made.id, b"f")
            ids |= {made.id, opened.inode.id}
        await room.client.unlink(made.id, b"f")
        assert {inode.id async for inode in scan_inodes(room.client)} == ids
        assert len([entry async for entry in scan_entries(room.client)]) == 13
        assert len([session async for session in scan_sessions(room.client)]) == 7
        assert [record.inode async for record in scan_garbage(room.client)] == [opened.inode.id]
        assert await count_requests(room.client) == 15

    room.run(body)


def test_small_pages_keep_directories_whole(room: Room) -> None:
    async def body() -> None:
        for number in range(9):
            await room.tick()
            await room.client.mkdir(ROOT_INODE, b"d%d" % number)
            await room.client.create(ROOT_INODE, b"d%d/f" % number)
        for limit in (1, 2, 3, 4):
            seen, cursor = [], b""
            while True:
                page = await scan(room.env, pb.ScanRequest.INODES, cursor, limit)
                seen += [(inode.id, inode.mtime_us) for inode in page.inodes]
                cursor = page.next
                if not cursor:
                    break
            assert len(seen) == len(set(seen)) == 20
            for id, mtime_us in seen:
                assert (await room.client.stat(id)).mtime_us == mtime_us

    room.run(body)


def test_root_only(room: Room) -> None:
    async def body() -> None:
        client = room.new_client(ALICE)
        await refused(errno.EPERM, count_requests(client))

    room.run(body)
