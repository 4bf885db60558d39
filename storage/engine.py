"""The chunk engine's interface: one disk's chunks, with pending and committed versions. Native and simulated.

Called only by the storage daemon. A chunk is named by (target, chunk id) and has a committed state and, while an
update is in flight, one pending state on top of it. The engine knows nothing of chains beyond the chain version
that it stores with each state. It keeps these promises:

* `stage` returns when the pending state, data included, is on stable storage (durability "always");
* a committed state is never damaged by a later update that is torn by a crash (copy on write, or append in place
  beyond the committed bytes);
* `commit` makes the pending state the committed one at once for readers; it reaches stable storage with the next
  group, and a crash in between leaves the chunk pending again, never the older state alone;
* after any crash `open` finds every staged state that was acknowledged, committed or pending, and says what it
  dropped;
* a commit remembers the update's ticket with its outcome (`Finished`), in one piece with the committed state: after
  any crash either both are there or the state is pending still, with its ticket;
* every unit of `unit_bytes(chunk_bytes)` has a CRC32C, checked whenever its bytes are read from the disk;
* all methods take batches; an error belongs to one operation (`error` of its result) unless the disk is dead,
  which raises `DiskFailed` for everything from then on.

Content beyond a chunk's length reads as nothing (short), a gap inside a chunk that was never written as zeros.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from threefs.client.storage.channels import NOBODY, Ticket
from threefs.common.errors import Conflict, ThreefsError
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, TargetId

CHUNK_BYTES_MIN = 64 << 10
CHUNK_BYTES_MAX = 64 << 20


def unit_bytes(chunk_bytes: int) -> int:
    """Bytes covered by one stored CRC32C: 4 KiB, more only so that a chunk has 256 units at most."""
    return max(4096, chunk_bytes // 256)


class DiskFailed(ThreefsError):
    """The disk under an engine failed; its targets go offline."""

    code = 701


class StaleUpdate(Conflict):
    """The update's version is committed already, or older still: a duplicate. Nothing was changed."""

    code = 311


class MissingUpdate(Conflict):
    """The version leaves a gap: what it builds on is not committed here (or the commit's pending state is absent)."""

    code = 312


class UpdateKind(enum.IntEnum):
    WRITE = 1  # `data` at `offset`, rest of the committed content kept; the chunk is created if absent
    REPLACE = 2  # `data` is the whole content (resync, and writes to a syncing target)
    TRUNCATE = 3  # length becomes exactly `length`: cut, or grown with zeros
    EXTEND = 4  # length becomes at least `length`
    REMOVE = 5  # the chunk is gone once committed


@dataclass(slots=True)
class Update:
    """One staged change. Its version is explicit, so that a retry is recognised by all replicas."""

    target: TargetId
    chunk: ChunkId
    kind: UpdateKind
    chunk_bytes: int  # the file's chunk size: the largest length
    version: ChunkVersion  # of the pending state: committed + 1 (a pending state of that version is replaced, so
    # that a retry is harmless). REPLACE takes any version above the committed one, and any at all under a
    # chain version above the committed one's. Else StaleUpdate (below) or MissingUpdate (above).
    chain_version: ChainVersion
    offset: int = 0
    length: int = 0  # TRUNCATE, EXTEND
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    crc32c: int | None = None  # of `data`; checked before anything is written
    ticket: Ticket = NOBODY  # whose update it is; stays with the state, pending and committed


@dataclass(frozen=True, slots=True)
class ChunkMeta:
    """State of one chunk. `pending` is 0 when no update is in flight; committed is 0 for a chunk being created."""

    chunk: ChunkId
    committed: ChunkVersion
    committed_chain_version: ChainVersion
    length: int
    crc32c: int  # of the whole committed content
    pending: ChunkVersion = ChunkVersion(0)
    pending_chain_version: ChainVersion = ChainVersion(0)
    pending_length: int = 0
    pending_crc32c: int = 0
    pending_remove: bool = False
    chunk_bytes: int = 0
    modified_us: int = 0
    ticket: Ticket = NOBODY  # of the update that made the committed content: what the content can be told apart by
    pending_ticket: Ticket = NOBODY


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the sender of a finished update is told, once or again."""

    version: ChunkVersion
    chain_version: ChainVersion
    length: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The newest committed update of one channel of one client."""

    ticket: Ticket
    outcome: Outcome
    finished_us: int  # wall clock of the daemon that remembers it


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """After `stage`: length and CRC32C of the whole pending content, for comparison along the chain."""

    length: int = 0
    crc32c: int = 0
    error: ThreefsError | None = None


@dataclass(slots=True)
class ReadOp:
    target: TargetId
    chunk: ChunkId
    offset: int
    buffer: memoryview  # writable; its length is what is asked for
    pending: bool = False  # read the pending state instead of the committed one


@dataclass(frozen=True, slots=True)
class ReadResult:
    """`length` bytes were put into the buffer (short at the end of the chunk). No such chunk: length 0, committed 0."""

    length: int = 0
    crc32c: int = 0  # of those bytes
    committed: ChunkVersion = ChunkVersion(0)
    pending: ChunkVersion = ChunkVersion(0)
    committed_chain_version: ChainVersion = ChainVersion(0)
    error: ThreefsError | None = None


# Many reads at once, without an object for each (`ChunkEngine.read_array`); also `struct engine_read` of the native
# engine. The caller sets target, chunk, offset and bytes; `error` is 0, or any other number if the read failed.
READ_ARRAY: Final = np.dtype(
    [
        ("target", "<u8"),
        ("chunk", "V16"),  # as `ChunkId.pack` gives it
        ("buffer", "<u8"),  # the engine's
        ("offset", "<u4"),
        ("bytes", "<u4"),
        ("flags", "<u4"),
        ("error", "<i4"),
        ("committed", "<u8"),
        ("pending", "<u8"),
        ("chain_version", "<u8"),
        ("length", "<u4"),
        ("crc32c", "<u4"),
        ("detail", "<u8"),
    ]
)
ReadArray = np.ndarray[Any, np.dtype[np.void]]


@dataclass(frozen=True, slots=True)
class Commit:
    target: TargetId
    chunk: ChunkId
    version: ChunkVersion  # the pending one; at or below the committed one: nothing to do; else MissingUpdate
    chain_version: ChainVersion  # becomes the committed state's


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    capacity_bytes: int
    free_bytes: int  # what chunks can still take: file system's free space plus freed blocks
    used_bytes: int  # allocated to live chunks
    chunk_count: int


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What `open` found: printed in the daemon's log."""

    chunks: int = 0
    pending: int = 0
    dropped: tuple[str, ...] = ()  # one sentence each


@dataclass(frozen=True, slots=True)
class FrameAnswer:
    """Reply descriptors of a whole read frame, and how many bytes of the data they take, one after the other."""

    replies: bytearray
    data_bytes: int


class ChunkEngine(Protocol):
    """One disk. Open instances own their directory; a second owner gets a `Conflict` that names the first."""

    recovery: RecoveryReport

    async def create_target(self, target: TargetId) -> None:
        """Idempotent, durable."""
        ...

    def targets(self) -> Sequence[TargetId]: ...

    async def drop_target(self, target: TargetId) -> None:
        """Removes a target with all its chunks; durable, resumable after a crash."""
        ...

    async def stage(self, updates: Sequence[Update]) -> list[UpdateResult]: ...

    async def commit(self, commits: Sequence[Commit]) -> list[ThreefsError | None]: ...

    def finished(self, target: TargetId) -> list[Finished]:
        """One for each channel whose update was committed or remembered here, the oldest first. Right after `open`;
        later what reached the disk."""
        ...

    async def remember(self, target: TargetId, finished: Sequence[Finished]) -> None:
        """Takes over what was finished elsewhere; durable. Of two on one channel the later sequence stays."""
        ...

    def forget(self, target: TargetId, tickets: Sequence[Ticket]) -> None:
        """The channels of these tickets are not remembered any more, once the next group is on the disk."""
        ...

    async def abort(self, target: TargetId, chunk: ChunkId, version: ChunkVersion) -> None:
        """Drops the pending state if it has this version."""
        ...

    async def read(self, ops: Sequence[ReadOp]) -> list[ReadResult]:
        """ChecksumMismatch in `error` if a unit's CRC32C differs: the caller repairs from a replica."""
        ...

    async def read_array(self, reads: ReadArray, data: memoryview) -> None:
        """Committed content of many pieces into `data`, one after the other, `bytes` apart. Fills in the results;
        what failed is asked for again with `read`, which gives the exception."""
        ...

    def read_frame(
        self, body: bytes, data: memoryview, grants: Sequence[tuple[int, int, int, bool]]
    ) -> FrameAnswer | None:
        """Answers the read requests of `proto.data_plane` in one call, if that needs neither disk nor judgement.

        `grants` are (target, chain, chain version, is authority) that may be read now. None, with `data` undefined,
        if any read is outside of them, meets a pending version without authority, is not at hand or fails: then
        `read` does it. A short cut around work per element, not another meaning.
        """
        ...

    async def query(self, target: TargetId, chunks: Sequence[ChunkId]) -> list[ChunkMeta | None]: ...

    async def list(
        self, target: TargetId, begin: ChunkId, end: ChunkId, *, limit: int = 1000, reverse: bool = False
    ) -> Sequence[ChunkMeta]:
        """Chunks with begin <= id < end in order, committed or pending."""
        ...

    async def verify(self, target: TargetId, chunk: ChunkId) -> ThreefsError | None:
        """Reads the committed content from the disk itself, past every cache: ChecksumMismatch if a unit differs,
        None if the chunk is sound or gone. Scrubbing is this for each of `list`, at the caller's pace."""
        ...

    async def space(self) -> SpaceInfo: ...

    async def check(self) -> None:
        """Writes, syncs and reads back a test file; raises DiskFailed."""
        ...

    async def sync(self) -> None:
        """Makes all commits so far durable."""
        ...

    async def close(self) -> None: ...
