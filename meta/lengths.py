"""Lengths of files that are being written. The one rule: a length only grows, except by truncate.

A client knows the end of its own acknowledged writes and says so, as a hint with the truncate version that it knew.
A hint of the current version is adopted if it is larger. Where hints cannot be had (a client died, a write of it
failed, somebody truncated meanwhile), storage is asked for the last chunk on every chain of the file. Truncate never
leaves chunks beyond the new length, so the answer of storage is never too long.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from threefs.common.errors import Busy
from threefs.common.files import FileType, Inode, LengthHint
from threefs.common.ids import CHUNK_INDEX_MAX, ChainId, ChunkId, InodeId, SessionId
from threefs.meta import store
from threefs.meta.context import Environment
from threefs.meta.view import View

_ROUNDS_MAX: Final = 8  # truncates that may come between while one length is measured
_REPORT_BATCH: Final = 32  # inodes in one transaction: small enough for every store
_REMOVE_BATCH: Final = 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """What storage has of a file, as of one truncate version."""

    length: int
    truncate_version: int


class _Unknown(Exception):
    """The transaction found that storage has to be asked (again)."""


def used_chains(inode: Inode, *, first: int = 0, whole: bool = False) -> list[ChainId]:
    """The chains that can hold chunks of a file from chunk `first` on; `whole`: however long it really is."""
    assert inode.layout is not None, f"file {inode.id:#x} has no layout"
    chains = inode.layout.chains
    count = -(-inode.length // inode.layout.chunk_bytes)
    indices = range(len(chains)) if whole else range(first, min(count, first + len(chains)))
    return list(dict.fromkeys(chains[i % len(chains)] for i in indices))


async def measure(env: Environment, id: InodeId) -> Measured:
    """Asks storage for the end of the last chunk."""
    inode = await env.read(lambda view: view.inode(id))
    if inode.type is not FileType.FILE or inode.layout is None:
        return Measured(0, inode.truncate_version)
    chunk_bytes = inode.layout.chunk_bytes
    chains = used_chains(inode, whole=True)
    answers = await asyncio.gather(*(env.storage.query_last_chunk(chain, id) for chain in chains))
    ends = [last.index * chunk_bytes + last.length for last in answers if last.index >= 0]
    return Measured(max(ends, default=0), inode.truncate_version)


def adopt(inode: Inode, hint: LengthHint | None, measured: Measured | None) -> Inode:
    """The inode with what is known of its length; itself if nothing changes. Raises `_Unknown` to have it measured."""
    if measured is not None and measured.truncate_version != inode.truncate_version:
        raise _Unknown
    if hint is not None and measured is None and hint.truncate_version != inode.truncate_version and hint.mtime_us:
        raise _Unknown
    length = max(inode.length, measured.length if measured else 0)
    if hint is not None and hint.truncate_version == inode.truncate_version:
        length = max(length, hint.length)
    written_us = hint.mtime_us if hint is not None else 0
    if not written_us and length == inode.length:
        return inode
    if not written_us:
        return replace(inode, length=length)
    return replace(inode, length=length, mtime_us=written_us, ctime_us=max(inode.ctime_us, written_us))


async def settle(
    env: Environment, id: InodeId, hint: LengthHint | None, *, precise: bool = False, end: SessionId | None = None
) -> Inode:
    """Makes the length right and durable; with `end`, ends that session in the same transaction.

    Idempotent: when the session is gone already, the request was carried out before (or the session was pruned), and
    only a larger length is adopted, not the time of the write.
    """

    async def body(view: View, measured: Measured | None) -> Inode:
        inode = await view.inode(id, guard=True)
        known = hint
        if end is not None:
            key = store.session_key(id, end)
            if await view.txn.get(key) is None:
                known = replace(hint, mtime_us=0) if hint is not None else None
            else:
                view.txn.clear(key)
        if inode.type is not FileType.FILE:
            return inode
        changed = adopt(inode, known, measured)
        if changed is not inode:
            view.put_inode(changed)
        return changed

    async with env.locks.hold(("length", id)):
        measured = await measure(env, id) if hint is None or precise else None
        for _ in range(_ROUNDS_MAX):
            try:
                return await env.transact(partial(body, measured=measured))
            except _Unknown:
                measured = await measure(env, id)
        raise Busy(f"inode {id:#x} was truncated {_ROUNDS_MAX} times while its length was measured")


async def report(env: Environment, hints: list[tuple[InodeId, LengthHint]]) -> None:
    """Adopts what hints say where that needs no storage; files that are gone, and hints that are stale, are skipped."""

    async def body(view: View, page: list[tuple[InodeId, LengthHint]]) -> None:
        for id, hint in page:
            inode = await view.find_inode(id, guard=True)
            if inode is None or inode.type is not FileType.FILE or hint.truncate_version != inode.truncate_version:
                continue
            changed = adopt(inode, hint, None)
            if changed is not inode:
                view.put_inode(changed)

    for start in range(0, len(hints), _REPORT_BATCH):
        page = hints[start : start + _REPORT_BATCH]
        await env.transact(partial(body, page=page))


async def cut(env: Environment, inode: Inode, length: int, *, written: bool) -> None:
    """Removes what storage holds beyond `length`. `written`: somebody may have written beyond the recorded length.

    Whole chunks first, the partial one last. If it stops halfway, the recorded length still stands and what is gone
    reads as zeros; doing it again finishes it.
    """
    layout = inode.layout
    assert layout is not None, f"file {inode.id:#x} has no layout"
    first = -(-length // layout.chunk_bytes)
    chains = used_chains(inode, first=first, whole=written) if first <= CHUNK_INDEX_MAX else []
    await asyncio.gather(*(remove_chunks(env, chain, inode.id, first) for chain in chains))
    tail = length % layout.chunk_bytes
    if tail and (written or length < inode.length):
        chunk = ChunkId(inode.id, first - 1)
        chain = layout.chain_of(chunk.number)
        await env.storage.truncate_chunk(chain, chunk, length=tail, chunk_bytes=layout.chunk_bytes)


async def remove_chunks(env: Environment, chain: ChainId, inode: InodeId, first: int = 0) -> int:
    """Removes an inode's chunks from `first` on from one chain; returns how many there were."""
    total = 0
    while True:
        removed = await env.storage.remove_chunks(
            chain, inode, first=first, last=CHUNK_INDEX_MAX + 1, limit=_REMOVE_BATCH
        )
        total += removed
        if removed < _REMOVE_BATCH:
            return total
