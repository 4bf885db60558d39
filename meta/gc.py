"""The garbage collector: frees the chunks and records of what has lost its last name.

What waits are entries of the collector's directory (see `store.Garbage`), spread over shards. Each round takes what is
due from the shards that this daemon owns:

* a file with sessions is put back for later; else its chunks are removed from storage, then record and entry
  go in one transaction. Nothing can open such a file any more: `open` asks for a live session of a file without names;
* a directory has its names taken out in batches, each in one transaction that makes garbage of what it names; when a
  batch finds none, the directory goes itself.

Everything may stop at any point and be done again, by this daemon or another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from threefs.common.errors import ThreefsError
from threefs.common.files import FileType, Inode
from threefs.common.ids import GC_ROOT_INODE
from threefs.meta import metrics, store
from threefs.meta.context import Environment
from threefs.meta.lengths import remove_chunks, used_chains
from threefs.meta.store import Entry, Garbage
from threefs.meta.view import View

_log = logging.getLogger(__name__)
_DIRECTORY_BATCH: Final = 24  # names in one transaction: with three writes each, within the limits of every store


class Collector:
    """One a daemon; `round` is called by its periodic task."""

    def __init__(self, env: Environment, owns: Callable[[int], bool]) -> None:
        self._env = env
        self._owns = owns
        self._free = asyncio.Semaphore(env.config.garbage.concurrency)

    async def round(self) -> None:
        """Handles what is due in the shards of this daemon; goes on while there is more, then returns."""
        for shard in range(store.GC_SHARDS):
            if self._owns(shard):
                await self._drain(shard)

    async def _drain(self, shard: int) -> None:
        batch = self._env.config.garbage.batch
        while True:
            begin, end = store.garbage_range(shard, self._env.runtime.wall_us())

            async def due(view: View, begin: bytes = begin, end: bytes = end) -> list[Garbage]:
                pairs = await view.txn.get_range(begin, end, limit=batch, snapshot=True)
                return [store.garbage_of(key, value) for key, value in pairs]

            found = await self._env.read(due)
            await asyncio.gather(*(self._collect(garbage) for garbage in found))
            if len(found) < batch:
                return

    async def _collect(self, garbage: Garbage) -> None:
        async with self._free:
            try:
                if garbage.type is FileType.DIRECTORY:
                    await self._collect_directory(garbage)
                else:
                    await self._collect_file(garbage)
            except ThreefsError as exc:
                metrics.GARBAGE_FAILURES.inc()
                _log.info("inode %#x stays garbage for now: %s: %s", garbage.inode, type(exc).__name__, exc)
                await self._env.transact(lambda view: self._postpone(view, garbage))

    async def _collect_file(self, garbage: Garbage) -> None:
        async def look(view: View) -> Inode | None:
            inode = await view.find_record(garbage.inode, guard=True)
            if inode is not None and await view.has_sessions(inode.id):
                await self._postpone(view, garbage)
                return None
            if inode is None or inode.nlink:
                view.clear_garbage(garbage)  # freed by another daemon
                return None
            return inode

        inode = await self._env.transact(look)
        if inode is None:
            return
        removed = 0
        if inode.type is FileType.FILE:
            counts = await asyncio.gather(*(remove_chunks(self._env, chain, inode.id) for chain in used_chains(inode)))
            removed = sum(counts)

        async def erase(view: View) -> None:
            view.erase_inode(inode)
            view.clear_garbage(garbage)

        await self._env.transact(erase)
        metrics.GARBAGE_INODES.inc()
        metrics.GARBAGE_CHUNKS.inc(removed)

    async def _collect_directory(self, garbage: Garbage) -> None:
        while await self._env.transact(lambda view: self._empty_some(view, garbage)):
            pass
        metrics.GARBAGE_INODES.inc()

    async def _empty_some(self, view: View, garbage: Garbage) -> bool:
        """Makes garbage of some of a directory's entries; True if there may be more, else the directory is gone."""
        begin, end = store.entries_range(garbage.inode)
        pairs = await view.txn.get_range(begin, end, limit=_DIRECTORY_BATCH)
        for key, raw in pairs:
            entry = store.unpack_entry(raw)
            view.txn.clear(key)
            child = await view.find_record(entry.inode, guard=True)
            if child is not None:
                self._orphan(view, entry, child)
        if pairs:
            return True
        directory = await view.find_record(garbage.inode, guard=True)
        if directory is not None:
            view.erase_inode(directory)
        view.clear_garbage(garbage)
        return False

    def _orphan(self, view: View, entry: Entry, child: Inode) -> None:
        """A child of a removed directory loses the name that it had there."""
        now = self._env.runtime.wall_us()
        if entry.type is FileType.DIRECTORY:
            left = replace(child, nlink=0, parent=GC_ROOT_INODE, ctime_us=now)
        else:
            left = replace(child, nlink=max(child.nlink - 1, 0), ctime_us=now)
        if left.nlink == 0 and entry.type is FileType.SYMLINK:
            view.erase_inode(child)
            return
        view.put_inode(left)
        if left.nlink == 0:
            delay_us = 0 if entry.type is FileType.DIRECTORY else int(self._env.config.garbage.file_delay_s * 1e6)
            view.put_garbage(store.garbage_for(left.id, left.type, now + delay_us))

    async def _postpone(self, view: View, garbage: Garbage) -> None:
        """Puts an entry back for later, unless it is gone."""
        if await view.txn.get(store.garbage_key(garbage)) is None:
            return
        due_us = self._env.runtime.wall_us() + int(self._env.config.garbage.retry_s * 1e6)
        view.clear_garbage(garbage)
        view.put_garbage(replace(garbage, due_us=due_us))


async def count_garbage(env: Environment) -> int:
    """How many entries wait, due or not."""
    begin, end = store.entries_range(GC_ROOT_INODE)
    return len(await env.read(lambda view: view.txn.get_range(begin, end, snapshot=True)))
