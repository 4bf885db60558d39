"""scan: raw records page by page, for checkers. Reads only; each page is a snapshot of its own."""

from __future__ import annotations

from collections.abc import Callable

from threefs.common.files_proto import inode_to_proto
from threefs.common.ids import GC_ROOT_INODE
from threefs.common.kv.interface import KeyValue, key_after
from threefs.meta import store
from threefs.meta.context import Environment
from threefs.meta.view import View
from threefs.proto import meta_pb2 as pb

LIMIT_DEFAULT = 1000
LIMIT_MAX = 10_000
_Kind = pb.ScanRequest.Kind
_PREFIXES = {
    _Kind.Value("INODES"): store.INODE,
    _Kind.Value("ENTRIES"): store.ENTRY,
    _Kind.Value("SESSIONS"): store.SESSION,
    _Kind.Value("GARBAGE"): store.entries_range(GC_ROOT_INODE)[0],
    _Kind.Value("REQUESTS"): store.REQUEST,
}


async def scan(env: Environment, kind: int, cursor: bytes, limit: int) -> pb.ScanReply:
    """One page of one kind of record, from `cursor` on."""
    limit = min(limit or LIMIT_DEFAULT, LIMIT_MAX)
    begin, end = store.prefix_range(_PREFIXES[kind])
    begin = max(begin, cursor)

    async def body(view: View) -> pb.ScanReply:
        pairs = await view.txn.get_range(begin, end, limit=limit, snapshot=True)
        if kind == _Kind.Value("INODES") and pairs and not _is_times(pairs[-1][0]):
            # The times of a directory come right after its record: never on another page.
            times = await view.txn.get_range(
                key_after(pairs[-1][0]), store.times_key(store.inode_of_key(pairs[-1][0])) + b"\x00", snapshot=True
            )
            pairs = [*pairs, *times]
        reply = pb.ScanReply(next=key_after(pairs[-1][0]) if len(pairs) >= limit else b"")
        _FILL[kind](reply, pairs)
        return reply

    return await env.read(body)


def _is_times(key: bytes) -> bool:
    return len(key) > store.INODE_KEY_BYTES


def _fill_inodes(reply: pb.ScanReply, pairs: list[KeyValue]) -> None:
    times = {key[: store.INODE_KEY_BYTES]: value for key, value in pairs if _is_times(key)}
    for key, raw in pairs:
        if not _is_times(key):
            inode = store.unpack_inode(store.inode_of_key(key), raw, times.get(key))
            reply.inodes.append(inode_to_proto(inode))


def _fill_entries(reply: pb.ScanReply, pairs: list[KeyValue]) -> None:
    for key, raw in pairs:
        parent = store.inode_of_key(key)
        if parent != GC_ROOT_INODE:
            entry = store.unpack_entry(raw)
            reply.entries.add(parent=parent, name=store.name_of_key(key), inode=entry.inode, type=entry.type)


def _fill_sessions(reply: pb.ScanReply, pairs: list[KeyValue]) -> None:
    for key, raw in pairs:
        session = store.unpack_session(raw)
        reply.sessions.add(
            inode=store.inode_of_key(key),
            session=store.session_of_key(key),
            client_id=session.client,
            created_us=session.created_us,
        )


def _fill_garbage(reply: pb.ScanReply, pairs: list[KeyValue]) -> None:
    for key, raw in pairs:
        garbage = store.garbage_of(key, raw)
        reply.garbage.add(inode=garbage.inode, type=garbage.type, due_us=garbage.due_us)


def _fill_requests(reply: pb.ScanReply, pairs: list[KeyValue]) -> None:
    reply.requests = len(pairs)


_FILL: dict[int, Callable[[pb.ScanReply, list[KeyValue]], None]] = {
    _Kind.Value("INODES"): _fill_inodes,
    _Kind.Value("ENTRIES"): _fill_entries,
    _Kind.Value("SESSIONS"): _fill_sessions,
    _Kind.Value("GARBAGE"): _fill_garbage,
    _Kind.Value("REQUESTS"): _fill_requests,
}
