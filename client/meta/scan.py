"""Raw records of the namespace, page by page, for checkers such as fsck. Needs root.

Each page is a snapshot of its own: a checker that runs beside writers must look again at what seems wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from threefs.client.meta.client import MetaClient
from threefs.client.meta.types import EntryRecord, GarbageRecord, SessionRecord
from threefs.common.files import Inode
from threefs.common.files_proto import file_type, inode_from_proto
from threefs.common.ids import ClientId, InodeId, SessionId
from threefs.proto import meta_pb2 as pb
from threefs.proto.meta_rpc import Meta


async def _pages(client: MetaClient, kind: str) -> AsyncIterator[pb.ScanReply]:
    cursor = b""
    while True:
        header = client.caller.header(client.user, mutation=False)
        reply = await client.caller.call(Meta.SCAN, pb.ScanRequest(header=header, kind=kind, cursor=cursor))
        yield reply
        cursor = reply.next
        if not cursor:
            return


async def scan_inodes(client: MetaClient) -> AsyncIterator[Inode]:
    """Every inode, unlinked ones that wait for the collector included."""
    async for page in _pages(client, "INODES"):
        for message in page.inodes:
            yield inode_from_proto(message)


async def scan_entries(client: MetaClient) -> AsyncIterator[EntryRecord]:
    """Every directory entry."""
    async for page in _pages(client, "ENTRIES"):
        for message in page.entries:
            yield EntryRecord(InodeId(message.parent), message.name, InodeId(message.inode), file_type(message.type))


async def scan_sessions(client: MetaClient) -> AsyncIterator[SessionRecord]:
    """Every write session."""
    async for page in _pages(client, "SESSIONS"):
        for message in page.sessions:
            yield SessionRecord(
                InodeId(message.inode), SessionId(message.session), ClientId(message.client_id), message.created_us
            )


async def scan_garbage(client: MetaClient) -> AsyncIterator[GarbageRecord]:
    """What waits for the garbage collector."""
    async for page in _pages(client, "GARBAGE"):
        for message in page.garbage:
            yield GarbageRecord(InodeId(message.inode), file_type(message.type), message.due_us)


async def count_requests(client: MetaClient) -> int:
    """Records of requests that were carried out, kept so that a repeated one is recognised."""
    count = 0
    async for page in _pages(client, "REQUESTS"):
        count += page.requests
    return count
