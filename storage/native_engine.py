"""The chunk engine over the C core: packs batches, waits for tickets, turns codes into errors.

Made by the storage daemon's wiring, one a disk. Its one rule: whatever C was handed stays referenced in `_waiting`
until its ticket comes back, so that a cancelled caller never frees memory that a thread still uses.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from builtins import list as List
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from threefs.client.storage.channels import Ticket
from threefs.common.errors import (
    BadRequest,
    Busy,
    ChecksumMismatch,
    Conflict,
    Corrupt,
    InternalError,
    NoSpace,
    NotFound,
    ThreefsError,
    Throttled,
)
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, InodeId, TargetId
from threefs.native._core import ffi, lib
from threefs.native.buffers import buffer
from threefs.proto.data_plane import READ_REPLY_BYTES, READ_REQUEST_BYTES
from threefs.storage import native_layout as layout
from threefs.storage.engine import (
    CHUNK_BYTES_MAX,
    ChunkMeta,
    Commit,
    DiskFailed,
    Finished,
    FrameAnswer,
    MissingUpdate,
    Outcome,
    ReadArray,
    ReadOp,
    ReadResult,
    RecoveryReport,
    SpaceInfo,
    StaleUpdate,
    Update,
    UpdateResult,
)

INLINE_BYTES_MAX: Final = 1 << 20  # a batch up to this size is first tried on the event loop's thread, against the
# page cache: cheaper than waking a thread (60 us for 128 KiB of 4 KiB reads); larger ones would hold the loop up

FINISHED_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How one engine uses its folder."""

    capacity_bytes: int = 0  # 0: all that the file system has
    use_max: float = 0.98  # creates are refused above this share of the capacity
    flush_delay_s: float = 0.2  # a commit reaches the disk after this time at the latest
    cache_chunks: int = 16384  # clean chunk states kept in memory, up to 1.2 KiB each
    plain_io: bool = False  # pwritev instead of io_uring


class NativeEngine:
    """One folder's chunks; see `storage.engine.ChunkEngine` for the promises. Use `NativeEngine.open`."""

    recovery: RecoveryReport
    io: str  # "io_uring" or "plain"

    def __init__(self, folder: Path, owner_fd: int, handle: Any, report: Any) -> None:
        self._folder = folder
        self._owner_fd = owner_fd
        self._engine = handle
        self._waiting: dict[int, tuple[asyncio.Future[None], Sequence[Any], Any]] = {}
        self._is_open = True
        self._loop = asyncio.get_running_loop()
        self._event_fd: int = lib.engine_event_fd(handle)
        self._loop.add_reader(self._event_fd, self._reap)
        self._tickets = ffi.new("uint64_t[]", 256)
        self.io = ffi.string(report.io).decode()
        self.recovery = _recovery(report)

    @classmethod
    async def open(cls, folder: Path, options: EngineOptions | None = None) -> NativeEngine:
        """Opens or creates the engine in an existing folder and recovers it. Conflict if it has an owner, DiskFailed
        if the folder cannot be used, Corrupt if its records cannot be trusted."""
        options = options or EngineOptions()
        owner_fd = _own(folder)
        report = ffi.new("struct engine_report *")
        path = ffi.new("char[]", os.fsencode(folder))
        handle = lib.engine_open(
            ffi.new(
                "struct engine_options *",
                {
                    "folder": path,
                    "capacity_bytes": options.capacity_bytes,
                    "use_permille_max": round(options.use_max * 1000),
                    "flush_delay_ms": round(options.flush_delay_s * 1000),
                    "cache_chunks": options.cache_chunks,
                    "flags": lib.ENGINE_PLAIN_IO if options.plain_io else 0,
                },
            ),
            report,
        )
        if handle == ffi.NULL:
            os.close(owner_fd)
            raise _open_error(folder, report)
        return cls(folder, owner_fd, handle, report)

    async def create_target(self, target: TargetId) -> None:
        await self._order(lib.ENGINE_CREATE_TARGET, target=target)

    def targets(self) -> Sequence[TargetId]:
        count = lib.engine_targets(self._handle(), ffi.NULL, 0)
        found = ffi.new("uint64_t[]", count + 1)
        count = min(count, lib.engine_targets(self._handle(), found, count))
        return sorted(TargetId(found[i]) for i in range(count))

    async def drop_target(self, target: TargetId) -> None:
        await self._order(lib.ENGINE_DROP_TARGET, target=target)

    async def stage(self, updates: Sequence[Update]) -> List[UpdateResult]:
        if not updates:
            return []
        engine = self._handle()
        packed = bytearray(layout.UPDATE.size * len(updates))
        views = [layout.pack_update(packed, index * layout.UPDATE.size, update) for index, update in enumerate(updates)]
        descriptors = ffi.from_buffer("struct engine_update[]", packed)
        await self._wait(lib.engine_stage(engine, descriptors, len(updates)), [descriptors, *views])
        return [
            self._update_result(update, *layout.UPDATE_RESULT.unpack_from(packed, index * layout.UPDATE.size))
            for index, update in enumerate(updates)
        ]

    async def commit(self, commits: Sequence[Commit]) -> List[ThreefsError | None]:
        packed = bytearray(layout.COMMIT.size * len(commits))
        for index, wanted in enumerate(commits):
            layout.COMMIT.pack_into(
                packed,
                index * layout.COMMIT.size,
                wanted.target,
                layout.ID.pack(wanted.chunk[0], 0, wanted.chunk[1]),
                wanted.version,
                wanted.chain_version,
                0,
                0,
                0,
            )
        lib.engine_commit(self._handle(), ffi.from_buffer("struct engine_commit[]", packed), len(commits))
        results: List[ThreefsError | None] = []
        for index, wanted in enumerate(commits):
            code, detail = layout.COMMIT_RESULT.unpack_from(packed, index * layout.COMMIT.size)
            results.append(
                self._error(code, detail, wanted.target, wanted.chunk, f"commit of version {wanted.version}")
                if code
                else None
            )
        return results

    def finished(self, target: TargetId) -> List[Finished]:
        found: List[Finished] = []
        page = bytearray(layout.FINISHED.size * FINISHED_PAGE)
        after: Any = ffi.NULL
        count = FINISHED_PAGE
        while count == FINISHED_PAGE:
            count = lib.engine_list_finished(
                self._handle(), target, after, FINISHED_PAGE, ffi.from_buffer("struct engine_finished[]", page)
            )
            if count < 0:
                raise self._error(-count, 0, target, ChunkId(InodeId(0), 0), "list of finished updates")
            found += [
                layout.finished(layout.FINISHED.unpack_from(page, index * layout.FINISHED.size))
                for index in range(count)
            ]
            if count:
                last = found[-1].ticket
                after = ffi.new("struct engine_ticket *", {"client": last.client, "channel": last.channel})
        return sorted(found, key=lambda item: item.finished_us)

    async def remember(self, target: TargetId, finished: Sequence[Finished]) -> None:
        self._note_finished(target, finished)
        await self.sync()

    def forget(self, target: TargetId, tickets: Sequence[Ticket]) -> None:
        nothing = Outcome(ChunkVersion(0), ChainVersion(0), 0, 0)
        self._note_finished(target, [Finished(replace(ticket, sequence=0), nothing, 0) for ticket in tickets])

    def _note_finished(self, target: TargetId, finished: Sequence[Finished]) -> None:
        packed = b"".join([layout.pack_finished(target, item) for item in finished])
        code = lib.engine_remember(self._handle(), ffi.from_buffer("struct engine_finished[]", packed), len(finished))
        if code:
            raise self._error(code, 0, target, ChunkId(InodeId(0), 0), "note of finished updates")

    async def abort(self, target: TargetId, chunk: ChunkId, version: ChunkVersion) -> None:
        await self._order(lib.ENGINE_ABORT, target=target, chunk=chunk.pack(), version=version)

    async def read(self, ops: Sequence[ReadOp]) -> List[ReadResult]:
        return await self._read(ops, 0)

    def read_frame(
        self, body: bytes, data: memoryview, grants: Sequence[tuple[int, int, int, bool]]
    ) -> FrameAnswer | None:
        allowed = b"".join([layout.GRANT.pack(target, version, chain, tail) for target, chain, version, tail in grants])
        count = len(body) // READ_REQUEST_BYTES
        replies = bytearray(READ_REPLY_BYTES * count)
        length = lib.engine_read_frame(
            self._handle(),
            body,
            count,
            ffi.from_buffer("struct engine_grant[]", allowed),
            len(grants),
            ffi.from_buffer("uint8_t[]", data, require_writable=True),
            len(data),
            ffi.from_buffer(replies),
        )
        return FrameAnswer(replies, length) if length >= 0 else None

    async def verify(self, target: TargetId, chunk: ChunkId) -> ThreefsError | None:
        content = buffer(CHUNK_BYTES_MAX if (meta := (await self.query(target, [chunk]))[0]) is None else meta.length)
        if meta is None:
            return None
        [result] = await self._read([ReadOp(target, chunk, 0, content)], lib.ENGINE_READ_DISK)
        if result.error is None and result.committed == meta.committed and result.crc32c != meta.crc32c:
            return ChecksumMismatch(f"chunk {chunk}: CRC32C {result.crc32c:#x}, its record says {meta.crc32c:#x}")
        return result.error

    async def query(self, target: TargetId, chunks: Sequence[ChunkId]) -> List[ChunkMeta | None]:
        packed = bytearray(layout.META.size * len(chunks))
        for index, chunk in enumerate(chunks):
            struct.pack_into("=Q16s", packed, index * layout.META.size, target, chunk.pack())
        lib.engine_query(self._handle(), ffi.from_buffer("struct engine_meta[]", packed), len(chunks))
        found: List[ChunkMeta | None] = []
        for fields in layout.META.iter_unpack(packed):
            if fields[13]:
                raise self._error(fields[13], 0, target, ChunkId.unpack(fields[1]), "query")
            found.append(layout.meta(fields) if fields[14] else None)
        return found

    async def list(
        self, target: TargetId, begin: ChunkId, end: ChunkId, *, limit: int = 1000, reverse: bool = False
    ) -> Sequence[ChunkMeta]:
        packed = bytearray(layout.META.size * limit)
        count = lib.engine_list(
            self._handle(),
            target,
            begin.pack(),
            end.pack(),
            limit,
            reverse,
            ffi.from_buffer("struct engine_meta[]", packed),
        )
        if count < 0:
            raise self._error(-count, 0, target, begin, "list")
        return [layout.meta(layout.META.unpack_from(packed, index * layout.META.size)) for index in range(count)]

    async def space(self) -> SpaceInfo:
        found = ffi.new("struct engine_space *")
        lib.engine_space(self._handle(), found)
        return SpaceInfo(found.capacity_bytes, found.free_bytes, found.used_bytes, found.chunk_count)

    async def check(self) -> None:
        await self._order(lib.ENGINE_CHECK)

    async def sync(self) -> None:
        await self._order(lib.ENGINE_SYNC)

    def audit(self) -> str:
        """Compares records with bitmaps and each other: "" or the first finding and the number of them."""
        message = ffi.new("char[256]")
        findings = lib.engine_audit(self._handle(), message, 256)
        return f"{ffi.string(message).decode()} ({findings} findings)" if findings else ""

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        while self._waiting:
            await asyncio.gather(*[future for future, _, _ in self._waiting.values()])
        self._loop.remove_reader(self._event_fd)
        lib.engine_close(self._engine)
        os.close(self._owner_fd)

    # Between Python and C

    def _reap(self) -> None:
        count = 256
        while count == 256:
            count = lib.engine_reap(self._engine, self._tickets, 256)
            for index in range(count):
                future, views, _ = self._waiting.pop(self._tickets[index])
                layout.release(views)
                if not future.done():
                    future.set_result(None)

    async def _wait(self, ticket: int, views: Sequence[Any], keep: Any = None) -> None:
        """Until C is done with a batch, then releases `views`, which `from_buffer` gave; `keep` stays until then."""
        if not ticket:
            raise Throttled(f"{self._folder}: out of memory for one more batch")
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[ticket] = (future, views, keep)
        await asyncio.shield(future)  # a cancelled caller leaves; the ticket and what it refers to stay

    def _handle(self) -> Any:
        """The C engine; DiskFailed once it is closed."""
        if not self._is_open:
            raise DiskFailed(f"{self._folder}: the engine is closed")
        return self._engine

    async def _order(self, kind: int, *, target: int = 0, chunk: bytes = bytes(16), version: int = 0) -> None:
        order = ffi.new("struct engine_order *", {"kind": kind, "target": target, "version": version, "chunk": chunk})
        await self._wait(lib.engine_order(self._handle(), order), (), order)
        if order.error == lib.ENGINE_UNFINISHED:
            raise Busy(f"target {target} in {self._folder} is being dropped: wait until that is done")
        if order.error:
            raise self._error(order.error, 0, TargetId(target), ChunkId(InodeId(0), 0), "request")

    async def _read(self, ops: Sequence[ReadOp], flags: int) -> List[ReadResult]:
        engine = self._handle()
        packed = bytearray(layout.READ.size * len(ops))
        views: List[Any] = []
        total = 0
        for index, op in enumerate(ops):
            view = ffi.from_buffer(op.buffer, require_writable=True)
            views.append(view)
            total += len(view)
            layout.READ.pack_into(
                packed,
                index * layout.READ.size,
                op.target,
                layout.ID.pack(op.chunk[0], 0, op.chunk[1]),
                int(ffi.cast("uintptr_t", view)),
                op.offset,
                len(view),
                flags | lib.ENGINE_READ_PENDING if op.pending else flags,
                lib.ENGINE_UNFINISHED,
                0,
                0,
                0,
                0,
                0,
                0,
            )
        descriptors = ffi.from_buffer("struct engine_read[]", packed)
        left = len(ops)
        if total <= INLINE_BYTES_MAX and not flags:
            left = lib.engine_read_now(engine, descriptors, len(ops))
        views.append(descriptors)
        if left:
            await self._wait(lib.engine_read(engine, descriptors, len(ops)), views)
        else:
            layout.release(views)
        return [
            self._read_result(op, *layout.READ_RESULT.unpack_from(packed, index * layout.READ.size))
            for index, op in enumerate(ops)
        ]

    async def read_array(self, reads: ReadArray, data: memoryview) -> None:
        engine = self._handle()
        view = ffi.from_buffer(data, require_writable=True)
        ends = np.cumsum(reads["bytes"], dtype=np.uint64)
        assert not len(ends) or int(ends[-1]) <= len(view), f"{ends[-1]} bytes do not fit into {len(view)}"
        reads["buffer"] = ends - reads["bytes"] + np.uint64(int(ffi.cast("uintptr_t", view)))
        reads["error"] = lib.ENGINE_UNFINISHED
        descriptors = ffi.from_buffer("struct engine_read[]", reads.view(np.uint8))
        left = len(reads)
        if len(view) <= INLINE_BYTES_MAX:
            left = lib.engine_read_now(engine, descriptors, len(reads))
        if left:
            await self._wait(lib.engine_read(engine, descriptors, len(reads)), [descriptors, view])
        else:
            layout.release([descriptors, view])
        if (reads["error"] == lib.ENGINE_DISK_FAILED).any():
            self._error(lib.ENGINE_DISK_FAILED, 0, TargetId(0), ChunkId(InodeId(0), 0), "read")

    def _read_result(
        self, op: ReadOp, code: int, committed: int, pending: int, chain: int, length: int, crc: int, detail: int
    ) -> ReadResult:
        error = self._error(code, detail, op.target, op.chunk, f"read at {op.offset}") if code else None
        return ReadResult(length, crc, ChunkVersion(committed), ChunkVersion(pending), ChainVersion(chain), error)

    def _update_result(
        self, update: Update, code: int, length: int, crc: int, _reserved: int, detail: int
    ) -> UpdateResult:
        if not code:
            return UpdateResult(length, crc)
        what = f"{update.kind.name.lower()} of version {update.version}"
        return UpdateResult(error=self._error(code, detail, update.target, update.chunk, what))

    def _error(self, code: int, detail: int, target: TargetId, chunk: ChunkId, what: str) -> ThreefsError:
        """The exception of an engine_error; DiskFailed is raised, as it concerns everything."""
        where = f"target {target} chunk {chunk}: {what}"
        match code:
            case lib.ENGINE_NO_TARGET:
                return NotFound(f"target {target} is not in {self._folder}")
            case lib.ENGINE_STALE:
                return StaleUpdate(f"{where}: version {detail} is committed already")
            case lib.ENGINE_MISSING:
                return MissingUpdate(f"{where}: the committed version is {detail}")
            case lib.ENGINE_BAD_REQUEST:
                was = f", the chunk has {detail}" if detail else ""
                return BadRequest(f"{where}: offset, length or chunk size is out of range{was}")
            case lib.ENGINE_DATA_CRC:
                return ChecksumMismatch(f"{where}: the data has CRC32C {detail:#010x}, another was sent with it")
            case lib.ENGINE_DISK_CRC:
                return ChecksumMismatch(f"{where}: unit {detail} on the disk differs from its CRC32C")
            case lib.ENGINE_CORRUPT:
                return Corrupt(f"{where}: the chunk's record in {self._folder} is damaged")
            case lib.ENGINE_NO_SPACE:
                return NoSpace(f"{where}: {self._folder} is full: remove files or add disks")
            case lib.ENGINE_NO_MEMORY:
                return Throttled(f"{where}: out of memory, try again")
            case lib.ENGINE_DISK_FAILED:
                reason = ffi.string(lib.engine_failure(self._engine)).decode() if self._is_open else "it was closed"
                raise DiskFailed(f"{self._folder}: {reason or 'the disk does not work'}: replace it")
        return InternalError(f"{where}: engine error {code}")


def _own(folder: Path) -> int:
    """Takes the folder; the descriptor holds the lock until it is closed or the process ends."""
    try:
        fd = os.open(folder / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise DiskFailed(f"{folder}: {exc.strerror}: a storage folder must exist and be writable") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        first = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise Conflict(f"{folder} belongs to {first}: stop it, or use another folder") from exc
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return fd


def _open_error(folder: Path, report: Any) -> ThreefsError:
    message = f"{folder}: {ffi.string(report.message).decode()}"
    if report.error == lib.ENGINE_CORRUPT:
        return Corrupt(f"{message}: move the folder away and let the target resync from its chain")
    return DiskFailed(f"{message}: make the folder usable, or replace the disk")


def _recovery(report: Any) -> RecoveryReport:
    dropped = []
    if report.damaged_count:
        chunk = bytes(ffi.buffer(report.damaged_chunk))
        dropped.append(
            f"{report.damaged_count} damaged pending records, the first of chunk {chunk.hex()} "
            f"of target {report.damaged_target}"
        )
    if report.dropping_count:
        dropped.append(f"{report.dropping_count} targets were being dropped: that goes on")
    return RecoveryReport(report.chunk_count, report.pending_count, tuple(dropped))
