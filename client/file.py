"""Open files: what a descriptor of the mount and a file object of the library stand on.

`FileTable` is the one place where a process opens files of the cluster; it shares the state of an inode among its
descriptors, writes back what waits too long and reports lengths of files that are being written. `OpenFile` is one
descriptor. The rule kept here: a session that meta recorded is closed after the data is stored, however often it takes:
one that stays open would keep the space of a file that is removed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from threefs.client.meta.client import MetaClient
from threefs.client.meta.types import Opened
from threefs.client.open_inode import OpenInode, Services
from threefs.client.read_ahead import ReadAhead
from threefs.client.storage.types import StorageClient
from threefs.client.write_buffer import WriteBack
from threefs.common.errors import FileError, ThreefsError, TransientError
from threefs.common.files import Credentials, FileType, Inode, Layout
from threefs.common.ids import InodeId, SessionId
from threefs.common.runtime.interface import Runtime

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Bounds of one process's file state."""

    dirty_bytes_max: int = 32 << 20
    batches_in_flight_max: int = 8  # of up to 4 MiB each
    write_back_s: float = 1.0  # an open block that is older goes to storage
    report_s: float = 5.0  # between reports of the lengths of files that are being written
    length_s_max: float = 1.0  # how long a length is believed by a reader that comes to the end
    read_ahead_bytes: int = 8 << 20  # fetched ahead of a sequential reader of an `OpenFile`; 0: nothing


END_S = 0.1  # what sessions of closed files wait for others, to end with them in one request
END_SESSIONS_MAX = 256  # in one request


class FileTable:
    """Safe for use by one event loop. `start` begins the background work; files work without it, but unasked
    nothing is written back."""

    def __init__(
        self, runtime: Runtime, meta: MetaClient, storage: StorageClient, options: FileOptions | None = None
    ) -> None:
        self.meta = meta
        self.storage = storage
        self.runtime = runtime
        self.options = options or FileOptions()
        write_back = WriteBack(
            runtime,
            storage.write,
            bytes_max=self.options.dirty_bytes_max,
            batches_max=self.options.batches_in_flight_max,
            age_s_max=self.options.write_back_s,
        )
        self._services = Services(runtime, meta, storage, write_back, self.options.length_s_max)
        self._inodes: dict[InodeId, OpenInode] = {}
        self.watch: Callable[[InodeId, bool], None] = lambda inode, open: (
            None
        )  # told of each that has state here, or no more
        self._unpinned: dict[OpenFile, None] = {}
        self._left_open: dict[SessionId, InodeId] = {}  # their descriptors are gone, but meta has not answered
        self._closed: list[tuple[InodeId, SessionId]] = []  # sessions that are to end
        self._ending: asyncio.Task[None] | None = None
        self._next_report_s = runtime.now() + self.options.report_s

    def start(self) -> None:
        self.runtime.spawn(self._look_after(), name="file table")

    # --- opening ------------------------------------------------------------------------------------------------

    async def open(
        self, inode: InodeId, flags: int, *, path: bytes | str = b"", user: Credentials | None = None
    ) -> OpenFile:
        """open(2) of a file that exists; O_TRUNC included."""
        await self._settle_before(flags, None if path else inode)
        file = self._adopt(await self.meta.open(inode, flags, path=path, user=user), flags)
        if not file.attributes().nlink:
            await file.pin()  # opened through another descriptor, all names are gone
        return file

    async def create(
        self,
        parent: InodeId,
        name: bytes | str,
        flags: int,
        *,
        mode: int = 0o644,
        layout: Layout | None = None,
        user: Credentials | None = None,
    ) -> OpenFile:
        """open(2) with O_CREAT; `created` of the result tells whether it was not there."""
        await self._settle_before(flags, None)
        opened = await self.meta.create(parent, name, mode=mode, flags=flags, layout=layout, user=user)
        return self._adopt(opened, flags)

    async def _settle_before(self, flags: int, inode: InodeId | None) -> None:
        """What was written before a truncation must not land after it. Without `inode` it is not known which file."""
        if flags & os.O_TRUNC:
            for state in self.states() if inode is None else filter(None, [self.find(inode)]):
                await state.buffer.settle()

    def _adopt(self, opened: Opened, flags: int) -> OpenFile:
        if opened.inode.type is not FileType.FILE:
            raise FileError(errno.EISDIR if opened.inode.type is FileType.DIRECTORY else errno.ENXIO)
        state = self._inodes.get(opened.inode.id)
        if state is None:
            state = self._inodes[opened.inode.id] = OpenInode(self._services, opened.inode)
            self.watch(opened.inode.id, True)
        else:
            state.observe(opened.inode)
        return OpenFile(self, state, opened.session, flags, created=opened.created)

    # --- the state of an inode ----------------------------------------------------------------------------------

    def find(self, inode: InodeId) -> OpenInode | None:
        """Its state if this process has it open."""
        return self._inodes.get(inode)

    def observe(self, inode: Inode) -> Inode:
        """A record that meta just sent, with this process's writes applied if it has the file open."""
        state = self._inodes.get(inode.id)
        return state.observe(inode) if state is not None else inode

    def states(self) -> Iterable[OpenInode]:
        return list(self._inodes.values())

    def unpinned(self, inode: InodeId) -> list[OpenFile]:
        """Descriptors for which meta has no session: when the last name goes, nothing keeps their data."""
        return [file for file in self._unpinned if file.inode == inode]

    @property
    def has_unpinned(self) -> bool:
        return bool(self._unpinned)

    def note_session(self, file: OpenFile, *, open: bool, session: bool) -> None:
        """Every descriptor says so when it opens, when it gets a session and when it closes."""
        if open and not session:
            self._unpinned[file] = None
        else:
            self._unpinned.pop(file, None)

    def close_later(self, inode: InodeId, session: SessionId) -> None:
        """Meta did not answer when the last descriptor was closed; it is told again until it does."""
        self._left_open[session] = inode

    def forget(self, state: OpenInode) -> None:
        if not state.opens and self._inodes.get(InodeId(state.id)) is state:
            del self._inodes[InodeId(state.id)]
            self.watch(InodeId(state.id), False)

    # --- background ---------------------------------------------------------------------------------------------

    def end_soon(self, inode: InodeId, session: SessionId) -> None:
        """Ends a session of which nobody waits for the end, together with others: one commit for many files."""
        self._closed.append((inode, session))
        if self._ending is None or self._ending.done():
            self._ending = self.runtime.spawn(self._end_sessions(), name="end sessions")

    async def _end_sessions(self) -> None:
        await self.runtime.sleep(END_S)
        while self._closed:
            page, self._closed = self._closed[:END_SESSIONS_MAX], self._closed[END_SESSIONS_MAX:]
            try:
                await self.meta.end_sessions(page)
            except ThreefsError:
                for inode, session in page:
                    self.close_later(inode, session)

    async def end_sessions(self) -> None:
        """Returns when the sessions of all files that were closed are at their end."""
        if self._ending is not None:
            await self._ending

    async def flush_all(self) -> None:
        """Everything to storage and meta; errors are logged. For the end of a process."""
        for state in self.states():
            try:
                await state.sync()
            except ThreefsError as exc:
                _log.error("inode %#x: data written lately is lost: %s", state.id, exc)

    async def _look_after(self) -> None:
        write_back = self._services.write_back
        while True:
            await self.runtime.sleep(self.options.write_back_s / 2)
            write_back.seal_aged()
            if self.runtime.now() >= self._next_report_s:
                await self._report()
                await self._close_left_open()
                self._next_report_s = self.runtime.now() + self.runtime.jitter(self.options.report_s)

    async def _report(self) -> None:
        hints = [(state, hint) for state in self.states() if (hint := state.unreported()) is not None]
        if not hints:
            return
        try:
            await self.meta.report_lengths((InodeId(state.id), hint) for state, hint in hints)
        except ThreefsError as exc:
            _log.warning("lengths of %d files could not be reported: %s", len(hints), exc)
            return
        for state, hint in hints:
            state.note_reported(hint)

    async def _close_left_open(self) -> None:
        for session, inode in list(self._left_open.items()):
            try:
                await self.meta.close(inode, session, None)
            except TransientError as exc:
                _log.warning("a session of inode %#x stays open for now: %s", inode, exc)
                return
            except ThreefsError as exc:
                _log.warning("a session of inode %#x cannot be closed: %s", inode, exc)
            del self._left_open[session]


class OpenFile:
    """One descriptor. Methods may run concurrently; order among them is the caller's business, as with a kernel."""

    def __init__(
        self, table: FileTable, state: OpenInode, session: SessionId | None, flags: int, *, created: bool = False
    ) -> None:
        self._table = table
        self.state = state
        self.flags = flags
        self.created = created
        self._session = session
        self._open = True
        self._lapsed = False  # the session was ended by `flush`; a later write begins another
        self._pinning = asyncio.Lock()
        ahead = table.options.read_ahead_bytes
        self._ahead = ReadAhead(state, table.runtime, bytes_max=ahead) if ahead else None
        state.opens += 1
        table.note_session(self, open=True, session=session is not None)

    @property
    def inode(self) -> InodeId:
        return InodeId(self.state.id)

    @property
    def readable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    def attributes(self) -> Inode:
        return self.state.attributes()

    async def pread(self, offset: int, views: Iterable[memoryview]) -> int:
        """Fills the views in order; bytes read, short only at the end of the file."""
        self._check(self.readable)
        total = 0
        source = self._ahead or self.state
        for view in views:
            count = await source.read_into(offset + total, view)
            total += count
            if count < len(view):
                break
        return total

    async def pwrite(self, offset: int, data: memoryview, *, owned: bool = False) -> None:
        """Writes all of `data`; durable after `fsync`. `owned`: the caller never changes the bytes again."""
        self._check(self.writable)
        if self._lapsed:
            await self.pin()
        await self.state.write(offset, data, owned=owned)

    async def append(self, data: memoryview) -> int:
        """Writes at the end of the file as this process knows it; returns where."""
        self._check(self.writable)
        offset = self.state.length
        await self.pwrite(offset, data)
        return offset

    async def truncate(self, length: int) -> Inode:
        self._check(self.writable)
        return await self.state.truncate(length, opened=True)

    async def fsync(self) -> None:
        """Data and length are on stable storage; raises what writes behind ran into."""
        self._check(self._open)
        await self.state.sync()

    async def flush(self) -> None:
        """close(2) of one of what may be several duplicates: others who open the file see what was written.

        Nearly always it is the only one, so the session is ended in the same request.
        """
        self._check(self._open)
        if self.writable and self.state.dirty:
            await self.state.sync(self._lapse if self._session is not None and self.state.opens == 1 else None)

    async def _lapse(self) -> None:
        self._lapsed = True
        self._table.note_session(self, open=True, session=False)
        await self._end_session()

    async def pin(self) -> None:
        """Makes the data outlive the last name of the file for as long as it is open."""
        async with self._pinning:
            if self._session is None:
                self._session = (await self._table.meta.open(self.inode, os.O_RDONLY, pin=True)).session
                self._lapsed = False
                self._table.note_session(self, open=True, session=self._session is not None)

    async def close(self, *, wait: bool = True) -> None:
        """Syncs and ends the session. Idempotent; the descriptor is closed even if this raises.

        `wait` False: the session may end a moment later, if meta has been told of everything that was written.
        """
        if not self._open:
            return
        self._open = False
        state = self.state
        if self._ahead is not None:
            self._ahead.drop()
        try:
            if self.writable:
                await state.sync()
        finally:
            try:
                await self._end_session(wait=wait)
            finally:
                state.opens -= 1
                self._table.note_session(self, open=False, session=False)
                self._table.forget(state)

    async def _end_session(self, *, wait: bool = True) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        if not wait and not self.state.dirty:
            self._table.end_soon(self.inode, session)
            return
        hint = self.state.hint()
        try:
            inode = await self._table.meta.close(self.inode, session, hint)
        except BaseException:
            self._keep(session)
            raise
        self.state.note_reported(hint)
        self.state.observe(inode)

    def _keep(self, session: SessionId) -> None:
        """Nobody knows whether meta has ended it: `close` asks again, or the table does."""
        if self._open and self._session is None:
            self._session, self._lapsed = session, False
            self._table.note_session(self, open=True, session=True)
        else:
            self._table.close_later(self.inode, session)

    def _check(self, allowed: bool) -> None:
        if not self._open or not allowed:
            raise FileError(errno.EBADF, f"inode {self.state.id:#x}")
