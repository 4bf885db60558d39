"""One file as this process has it open, however many times: layout, length, dirty data, times of writes.

`FileTable` makes one `OpenInode` an inode, so that all descriptors of a process see each other's writes at once.
Meta's record may lag behind while the file is being written; the rule kept here: what this process has written is
always in what it answers, and the record has it after `sync`.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from threefs.client.meta.client import MetaClient
from threefs.client.storage.types import ReadIO, StorageClient, WriteIO
from threefs.client.write_buffer import WriteBack, WriteBuffer
from threefs.common.errors import FileError, ThreefsError
from threefs.common.files import Credentials, Inode, Layout, LengthHint
from threefs.common.ids import CHUNK_INDEX_MAX, ChunkId
from threefs.common.runtime.interface import Runtime

BLOCK_BYTES_MAX = 1 << 20
_ZEROS = bytes(256 << 10)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [start, start + size) of a request, which lie in one chunk."""

    chunk: int
    offset: int  # in the chunk
    start: int
    size: int


def pieces(chunk_bytes: int, offset: int, size: int) -> Iterator[Piece]:
    """A range of a file, chunk by chunk."""
    start = 0
    while start < size:
        chunk, within = divmod(offset + start, chunk_bytes)
        length = min(chunk_bytes - within, size - start)
        yield Piece(chunk, within, start, length)
        start += length


def zero(view: memoryview) -> None:
    for start in range(0, len(view), len(_ZEROS)):
        part = view[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]


@dataclass(frozen=True, slots=True)
class Services:
    """What files stand on."""

    runtime: Runtime
    meta: MetaClient
    storage: StorageClient
    write_back: WriteBack
    length_s_max: float  # how long a length that meta told is believed


class OpenInode:
    def __init__(self, services: Services, inode: Inode) -> None:
        assert inode.layout is not None, f"inode {inode.id:#x} has no layout"
        assert inode.layout.chains, f"inode {inode.id:#x} has a layout without chains"
        self.services = services
        self.layout: Layout = inode.layout
        self.opens = 0
        self.change = 0  # grows whenever the content may have become another
        self._inode = inode
        self._told_s = services.runtime.now()
        self._written_end = 0  # end of the furthest write since `truncate_version` became what it is
        self._stored_end = 0  # of those that storage has acknowledged; <= _written_end
        self._reported_end = 0
        self._mtime_us = 0  # of the last write that meta has not been told of; 0: it has been told
        self._length_unknown = False  # a write failed: only storage knows the length
        self.buffer = WriteBuffer(
            services.write_back,
            self._write_ios,
            self._note_stored,
            block_bytes=min(self.layout.chunk_bytes, BLOCK_BYTES_MAX),
        )

    # --- attributes ---------------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        return self._inode.id

    @property
    def length(self) -> int:
        return max(self._inode.length, self._written_end)

    @property
    def dirty(self) -> bool:
        """True while meta or storage lack something."""
        return bool(self.buffer) or self._has_news

    @property
    def _has_news(self) -> bool:
        """True if meta's record lacks something that storage has, or the time of a write."""
        return self._mtime_us != 0 or self._length_unknown or self._stored_end > self._inode.length

    def attributes(self) -> Inode:
        """Meta's newest record with this process's writes applied."""
        if not self._written_end and not self._mtime_us:
            return self._inode
        return replace(
            self._inode,
            length=self.length,
            mtime_us=max(self._inode.mtime_us, self._mtime_us),
            ctime_us=max(self._inode.ctime_us, self._mtime_us),
        )

    def observe(self, inode: Inode) -> Inode:
        """Takes over a record that meta just sent; returns it with our own writes applied."""
        assert inode.id == self._inode.id, f"record of inode {inode.id:#x} for {self._inode.id:#x}"
        if inode.truncate_version < self._inode.truncate_version:
            return self.attributes()  # an answer that was overtaken
        if inode.mtime_us != self._inode.mtime_us or inode.truncate_version != self._inode.truncate_version:
            self.change += 1
        if inode.truncate_version > self._inode.truncate_version:
            self._written_end = self.buffer.end()
            self._stored_end = self._reported_end = 0
        self._inode = inode if inode.layout is not None else replace(inode, layout=self.layout)
        self._told_s = self.services.runtime.now()
        return self.attributes()

    async def refresh(self, user: Credentials | None = None) -> Inode:
        return self.observe(await self.services.meta.stat(self._inode.id, user=user))

    # --- reading ------------------------------------------------------------------------------------------------

    async def read_into(self, offset: int, view: memoryview) -> int:
        """Fills `view` up to the end of the file; bytes read. Holes are zeros."""
        end = offset + len(view)
        if end > self.length and self.services.runtime.now() - self._told_s > self.services.length_s_max:
            await self.refresh()
        size = min(len(view), self.length - offset)
        if size <= 0:
            return 0
        view = view[:size]
        if self.buffer:
            dirty = await self.buffer.view_of(offset, offset + size)
            if dirty is not None:
                view[:] = dirty
                return size
        await self._fetch(offset, view)
        return size

    async def _fetch(self, offset: int, view: memoryview) -> None:
        ios = [
            ReadIO(
                self.layout.chain_of(piece.chunk),
                ChunkId(self._inode.id, piece.chunk),
                piece.offset,
                view[piece.start : piece.start + piece.size],
            )
            for piece in pieces(self.layout.chunk_bytes, offset, len(view))
        ]
        await self.services.storage.read(ios)
        for io in ios:
            if io.error is not None:
                raise io.error
            if io.length < len(io.buffer):
                zero(io.buffer[io.length :])

    # --- writing ------------------------------------------------------------------------------------------------

    def check_end(self, end: int) -> None:
        """EFBIG for what chunk numbers cannot reach."""
        if end > (CHUNK_INDEX_MAX + 1) * self.layout.chunk_bytes:
            raise FileError(errno.EFBIG, f"byte {end} of inode {self._inode.id:#x}")

    async def write(self, offset: int, data: memoryview, *, owned: bool = False) -> None:
        """Buffers `data`; `flush` makes it durable. `owned`: the caller never changes the bytes again."""
        if not len(data):
            return
        self.check_end(offset + len(data))
        self.change += 1
        await self.buffer.write(offset, data, owned=owned)
        self._written_end = max(self._written_end, offset + len(data))
        self._mtime_us = self.services.runtime.wall_us()

    def touch(self) -> None:
        """The content was changed some other way than by `write`."""
        self.change += 1
        self._mtime_us = self.services.runtime.wall_us()

    def _write_ios(self, offset: int, data: memoryview) -> list[WriteIO]:
        return [
            WriteIO(
                self.layout.chain_of(piece.chunk),
                ChunkId(self._inode.id, piece.chunk),
                piece.offset,
                data[piece.start : piece.start + piece.size],
                self.layout.chunk_bytes,
            )
            for piece in pieces(self.layout.chunk_bytes, offset, len(data))
        ]

    def _note_stored(self, end: int, error: ThreefsError | None) -> None:
        if error is None:
            self._stored_end = max(self._stored_end, end)
        else:
            self._length_unknown = True

    # --- agreeing with meta -------------------------------------------------------------------------------------

    def hint(self) -> LengthHint | None:
        """What to tell meta; None if it has to ask storage."""
        if self._length_unknown:
            return None
        return LengthHint(self._stored_end, self._inode.truncate_version, self._mtime_us)

    def unreported(self) -> LengthHint | None:
        """A hint for the periodic report if storage has more than meta was told. The time is left to `sync`: nobody
        waits for a report, so it may come after a time that a user sets."""
        if self._length_unknown or self._stored_end <= self._reported_end:
            return None
        return LengthHint(self._stored_end, self._inode.truncate_version)

    def note_reported(self, hint: LengthHint | None) -> None:
        """Meta has answered to `hint`."""
        if hint is None:
            self._length_unknown = False
            self._written_end = self._stored_end = max(self.buffer.end(), 0)
            self._mtime_us = self._mtime_us if self.buffer else 0
            return
        if hint.truncate_version == self._inode.truncate_version:
            self._reported_end = max(self._reported_end, hint.length)
        if hint.mtime_us == self._mtime_us:
            self._mtime_us = 0  # no write since

    async def sync(self, report: Callable[[], Awaitable[None]] | None = None) -> None:
        """Data on stable storage, length and time of the last write in meta's record. Raises what a write behind
        ran into. `report`: tells meta in some other way than by `MetaClient.sync`."""
        tell = report or self._report
        try:
            await self.buffer.flush()
        except ThreefsError:
            with contextlib.suppress(ThreefsError):  # the first error is the one to tell; the next sync asks again
                await tell()
            raise
        await tell()

    async def _report(self) -> None:
        if not self._has_news:
            return
        hint = self.hint()
        inode = await self.services.meta.sync(self._inode.id, hint)
        self.note_reported(hint)
        self.observe(inode)

    async def truncate(self, length: int, *, opened: bool, user: Credentials | None = None) -> Inode:
        """Sets the length. `opened`: permission was checked when the file was opened for writing."""
        self.check_end(length)
        self.change += 1
        await self.buffer.flush()
        inode = await self.services.meta.truncate(self._inode.id, length, opened=opened, user=user)
        self._mtime_us = 0  # the truncation is the newer change
        return self.observe(inode)
