"""The namespace as one transaction sees it: typed reads and writes of the records of `store`.

Every operation works through a `View`. The rule it keeps: reads are snapshots without conflicts, so an operation
declares by `guard_*` (or `guard=True`) exactly what must still hold when it commits.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from threefs.common.errors import FileError
from threefs.common.files import FileType, Inode
from threefs.common.ids import InodeId, SessionId
from threefs.common.kv.interface import Transaction
from threefs.meta import store
from threefs.meta.store import Entry, Garbage, Session


class View:
    """Lives as long as its transaction; cheap to make."""

    __slots__ = ("txn",)

    def __init__(self, txn: Transaction) -> None:
        self.txn = txn

    # --- inodes -------------------------------------------------------------------------------------------------

    async def find_record(self, id: InodeId, *, guard: bool = False) -> Inode | None:
        """The inode's own record: enough to walk and to check permissions; times of a directory may be old."""
        raw = await self.txn.get(store.inode_key(id), snapshot=not guard)
        return None if raw is None else store.unpack_inode(id, raw)

    async def record(self, id: InodeId, *, guard: bool = False) -> Inode:
        """`find_record`, or ENOENT."""
        found = await self.find_record(id, guard=guard)
        if found is None:
            raise FileError(errno.ENOENT, f"inode {id:#x}")
        return found

    async def find_inode(self, id: InodeId, *, guard: bool = False) -> Inode | None:
        """The inode with everything that stat(2) shows."""
        raw = await self.txn.get(store.inode_key(id), snapshot=not guard)
        if raw is None:
            return None
        times = None
        if raw[1] == FileType.DIRECTORY:
            times = await self.txn.get(store.times_key(id), snapshot=True)
        return store.unpack_inode(id, raw, times)

    async def inode(self, id: InodeId, *, guard: bool = False) -> Inode:
        """`find_inode`, or ENOENT."""
        found = await self.find_inode(id, guard=guard)
        if found is None:
            raise FileError(errno.ENOENT, f"inode {id:#x}")
        return found

    def put_inode(self, inode: Inode) -> None:
        self.txn.set(store.inode_key(inode.id), store.pack_inode(inode))

    def guard_inode(self, id: InodeId) -> None:
        """Commit fails if the inode's record changes meanwhile (a directory's content and its times may)."""
        self.txn.add_read_conflict_key(store.inode_key(id))

    def put_times(self, directory: InodeId, mtime_us: int, ctime_us: int) -> None:
        self.txn.set(store.times_key(directory), store.pack_times(mtime_us, ctime_us))

    def touch(self, directory: InodeId, now_us: int) -> None:
        """The directory's content changed now."""
        self.put_times(directory, now_us, now_us)

    def erase_inode(self, inode: Inode) -> None:
        """Removes the record with everything that hangs on it."""
        self.txn.clear(store.inode_key(inode.id))
        if inode.type is FileType.DIRECTORY:
            self.txn.clear(store.times_key(inode.id))
        self.txn.clear_range(*store.xattrs_range(inode.id))

    # --- entries ------------------------------------------------------------------------------------------------

    async def entry(self, directory: InodeId, name: bytes, *, guard: bool = False) -> Entry | None:
        raw = await self.txn.get(store.entry_key(directory, name), snapshot=not guard)
        return None if raw is None else store.unpack_entry(raw)

    def guard_entry(self, directory: InodeId, name: bytes) -> None:
        self.txn.add_read_conflict_key(store.entry_key(directory, name))

    def put_entry(self, directory: InodeId, name: bytes, entry: Entry) -> None:
        self.txn.set(store.entry_key(directory, name), store.pack_entry(entry))

    def clear_entry(self, directory: InodeId, name: bytes) -> None:
        self.txn.clear(store.entry_key(directory, name))

    async def entries(self, directory: InodeId, *, after: bytes = b"", limit: int) -> list[tuple[bytes, Entry]]:
        """Names after `after` in order, without a conflict."""
        begin, end = store.entries_range(directory, after)
        pairs = await self.txn.get_range(begin, end, limit=limit, snapshot=True)
        return [(store.name_of_key(key), store.unpack_entry(raw)) for key, raw in pairs]

    async def is_empty(self, directory: InodeId) -> bool:
        """Commit fails if somebody creates a name in the directory meanwhile."""
        begin, end = store.entries_range(directory)
        return not await self.txn.get_range(begin, end, limit=1)

    # --- sessions and garbage -----------------------------------------------------------------------------------

    def put_session(self, inode: InodeId, session: SessionId, record: Session) -> None:
        self.txn.set(store.session_key(inode, session), store.pack_session(record))

    async def has_sessions(self, inode: InodeId) -> bool:
        """Commit fails if a session of the inode begins (or the first one ends) meanwhile."""
        return bool(await self.txn.get_range(*store.sessions_range(inode), limit=1))

    async def sessions(self, inode: InodeId) -> Sequence[tuple[SessionId, Session]]:
        pairs = await self.txn.get_range(*store.sessions_range(inode))
        return [(store.session_of_key(key), store.unpack_session(raw)) for key, raw in pairs]

    def put_garbage(self, garbage: Garbage) -> None:
        self.txn.set(store.garbage_key(garbage), store.pack_entry(Entry(garbage.inode, garbage.type)))

    def clear_garbage(self, garbage: Garbage) -> None:
        self.txn.clear(store.garbage_key(garbage))
