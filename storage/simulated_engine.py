"""The chunk engine's twin: the promises of `storage.engine` in memory, with faults on demand.

Used by tests and by the simulated cluster. `SimulatedDisk` is the medium and outlives its engine: a crash keeps
what was promised to be stable and drops, by the seed, any part of the rest. The one rule: nothing is more durable,
and no version rule laxer, than `storage.engine` says, so that protocols proven here hold on the native engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from sortedcontainers import SortedDict

from threefs.client.storage.channels import NOBODY, Ticket
from threefs.common.errors import BadRequest, ChecksumMismatch, Conflict, NoSpace, NotFound, ThreefsError
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, TargetId
from threefs.common.runtime.interface import Runtime
from threefs.native.checksum import crc32c
from threefs.storage.engine import (
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
    UpdateKind,
    UpdateResult,
)


@dataclass(frozen=True, slots=True)
class State:
    """One version of a chunk's content. Never changed, except by `SimulatedDisk.corrupt`, which leaves the CRC."""

    version: ChunkVersion
    chain_version: ChainVersion
    data: bytes
    crc32c: int
    chunk_bytes: int
    modified_us: int
    ticket: Ticket
    removed: bool = False

    def check(self) -> None:
        if crc32c(self.data) != self.crc32c:
            raise ChecksumMismatch(f"version {self.version}: stored CRC32C {self.crc32c:#010x} differs from the data")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Both states of one chunk; neither: the chunk is not there."""

    committed: State | None = None
    pending: State | None = None

    @property
    def version(self) -> ChunkVersion:
        return self.committed.version if self.committed else ChunkVersion(0)

    def bytes_used(self) -> int:
        return sum(len(state.data) for state in (self.committed, self.pending) if state)

    def meta(self, chunk: ChunkId) -> ChunkMeta:
        done, coming = self.committed, self.pending
        newest = coming or done
        assert newest is not None, f"chunk {chunk} without a state"
        return ChunkMeta(
            chunk,
            self.version,
            done.chain_version if done else ChainVersion(0),
            len(done.data) if done else 0,
            done.crc32c if done else 0,
            coming.version if coming else ChunkVersion(0),
            coming.chain_version if coming else ChainVersion(0),
            len(coming.data) if coming else 0,
            coming.crc32c if coming else 0,
            coming.removed if coming else False,
            newest.chunk_bytes,
            newest.modified_us,
            done.ticket if done else NOBODY,
            coming.ticket if coming else NOBODY,
        )


Chunks = dict[ChunkId, Chunk]
Channel = tuple[bytes, int]  # client, channel


class FinishedUpdates(dict[Channel, Finished]):
    """The newest finished update of each channel."""

    def note(self, item: Finished) -> None:
        key = (item.ticket.client, item.ticket.channel)
        known = self.get(key)
        if known is None or known.ticket.sequence <= item.ticket.sequence:
            self[key] = item


@dataclass(slots=True)
class SimulatedDisk:
    """A disk that survives its process: what is stable, and what can go wrong with it."""

    capacity_bytes: int = 1 << 40
    latency_s: tuple[float, float] = (0.0, 0.0)  # of a stage or a read, drawn uniformly
    failed: bool = False
    stable: dict[TargetId, Chunks] = field(default_factory=dict)
    finished: dict[TargetId, FinishedUpdates] = field(default_factory=dict)
    engine: SimulatedEngine | None = None  # the owner, while it lives

    def crash(self, random: Random) -> None:
        """Power off: unsynced commits and unfinished stages are kept or lost one by one."""
        engine, self.engine = self.engine, None
        if engine is None:
            return
        engine.dead = True
        for target, chunk in engine.dirty:
            if random.random() < 0.5:
                engine.store(target, chunk)
        for target, chunk, state in engine.staging:
            if random.random() < 0.5 and target in self.stable:
                kept = self.stable[target].get(chunk, Chunk())
                if kept.pending is None or kept.pending.version <= state.version:
                    self.stable[target][chunk] = replace(kept, pending=state)

    def corrupt(self, target: TargetId, chunk: ChunkId, at: int = 0) -> None:
        """Flips one bit of a committed chunk behind the engine's back."""
        for chunks in (self.stable[target], self.engine.chunks[target] if self.engine else {}):
            found = chunks.get(chunk)
            if found and found.committed and found.committed.data:
                raw = bytearray(found.committed.data)
                raw[at] ^= 1
                chunks[chunk] = replace(found, committed=replace(found.committed, data=bytes(raw)))


class SimulatedEngine:
    """The one engine on a disk; satisfies `ChunkEngine`."""

    def __init__(self, runtime: Runtime, disk: SimulatedDisk) -> None:
        """Conflict if another engine that is alive owns the disk."""
        if disk.engine is not None:
            raise Conflict("the simulated disk has an engine already; crash or close it first")
        disk.engine = self
        self.dead = False
        self.chunks: dict[TargetId, SortedDict] = {t: SortedDict(chunks) for t, chunks in disk.stable.items()}
        # Committed or aborted, not stable yet; with what the commits finished, which gets stable together with them.
        self.dirty: dict[tuple[TargetId, ChunkId], list[Finished]] = {}
        self.staging: list[tuple[TargetId, ChunkId, State]] = []
        everything = [chunk for chunks in self.chunks.values() for chunk in chunks.values()]
        self.recovery = RecoveryReport(len(everything), sum(chunk.pending is not None for chunk in everything))
        self._used_bytes = sum(chunk.bytes_used() for chunk in everything)
        self._runtime = runtime
        self._disk = disk

    # --- targets -----------------------------------------------------------------------------------------------

    async def create_target(self, target: TargetId) -> None:
        await self._turn()
        self.chunks.setdefault(target, SortedDict())
        self._disk.stable.setdefault(target, {})
        self._disk.finished.setdefault(target, FinishedUpdates())

    def targets(self) -> Sequence[TargetId]:
        return tuple(self.chunks)

    async def drop_target(self, target: TargetId) -> None:
        await self._turn()
        self._used_bytes -= sum(chunk.bytes_used() for chunk in self.chunks.pop(target, {}).values())
        self._disk.stable.pop(target, None)
        self._disk.finished.pop(target, None)
        self.dirty = {key: notes for key, notes in self.dirty.items() if key[0] != target}

    # --- updates -----------------------------------------------------------------------------------------------

    async def stage(self, updates: Sequence[Update]) -> list[UpdateResult]:
        results: list[UpdateResult] = []
        placed: list[tuple[TargetId, ChunkId, State]] = []
        for update in updates:
            try:
                state = self._next_state(update)
            except ThreefsError as exc:
                results.append(UpdateResult(error=exc))
                continue
            placed.append((update.target, update.chunk, state))
            results.append(UpdateResult(len(state.data), state.crc32c))
        self.staging += placed
        await self._turn()
        for entry in placed:
            self.staging.remove(entry)
            target, chunk, state = entry
            if target in self.chunks:
                self._put(target, chunk, replace(self._find(target, chunk), pending=state))
                self.store(target, chunk)
        self._flush()
        return results

    def _next_state(self, update: Update) -> State:
        """The pending state that an update makes; raises what the update violates."""
        now = self._find(update.target, update.chunk)
        self._check_version(update, now)
        if update.crc32c is not None and crc32c(update.data) != update.crc32c:
            raise ChecksumMismatch(
                f"data for chunk {update.chunk} has CRC32C {crc32c(update.data):#010x}, announced {update.crc32c:#010x}"
            )
        reach = update.length if update.kind in (UpdateKind.TRUNCATE, UpdateKind.EXTEND) else len(update.data)
        if update.offset < 0 or reach < 0 or update.offset + reach > update.chunk_bytes:
            raise BadRequest(f"chunk {update.chunk}: {reach} bytes at {update.offset} exceed {update.chunk_bytes}")
        data = self._content(update, now)
        grows = len(data) - (len(now.pending.data) if now.pending else 0)
        if grows > 0 and self._used_bytes + grows > self._disk.capacity_bytes and len(data):
            raise NoSpace(f"chunk {update.chunk} needs {grows} bytes more than the disk has")
        return State(
            update.version,
            update.chain_version,
            data,
            crc32c(data),
            update.chunk_bytes,
            self._runtime.wall_us(),
            update.ticket,
            update.kind is UpdateKind.REMOVE,
        )

    def _check_version(self, update: Update, now: Chunk) -> None:
        """The version rule of `Update.version`."""
        done = now.committed
        newer_chain = update.kind is UpdateKind.REPLACE and done and update.chain_version > done.chain_version
        if newer_chain:
            return
        if update.version <= now.version:
            raise StaleUpdate(f"chunk {update.chunk} is at version {now.version}, the update is {update.version}")
        if update.kind is not UpdateKind.REPLACE and update.version != now.version + 1:
            raise MissingUpdate(f"chunk {update.chunk} is at version {now.version}, the update is {update.version}")

    def _content(self, update: Update, now: Chunk) -> bytes:
        old = now.committed.data if now.committed else b""
        match update.kind:
            case UpdateKind.REPLACE:
                return bytes(update.data)
            case UpdateKind.REMOVE:
                return b""
            case UpdateKind.TRUNCATE:
                return old[: update.length].ljust(update.length, b"\0")
            case UpdateKind.EXTEND:
                return old.ljust(update.length, b"\0")
        if not update.data:
            return old
        end = update.offset + len(update.data)
        if now.committed and (update.offset or end < len(old)):
            now.committed.check()  # a torn base must not get a fresh checksum
        return old[: update.offset].ljust(update.offset, b"\0") + bytes(update.data) + old[end:]

    async def commit(self, commits: Sequence[Commit]) -> list[ThreefsError | None]:
        self._check_alive()
        return [self._commit_one(commit) for commit in commits]

    def _commit_one(self, commit: Commit) -> ThreefsError | None:
        if commit.target not in self.chunks:
            return NotFound(f"no target {commit.target} on this disk")
        now = self._find(commit.target, commit.chunk)
        if now.pending is None or now.pending.version != commit.version:
            if commit.version <= now.version:
                return None
            return MissingUpdate(f"chunk {commit.chunk} has no pending version {commit.version}")
        done = replace(now.pending, chain_version=commit.chain_version)
        self._put(commit.target, commit.chunk, Chunk() if done.removed else Chunk(done))
        notes = self.dirty.setdefault((commit.target, commit.chunk), [])
        if done.ticket.sequence:
            outcome = Outcome(done.version, done.chain_version, len(done.data), done.crc32c)
            notes.append(Finished(done.ticket, outcome, self._runtime.wall_us()))
        return None

    def finished(self, target: TargetId) -> list[Finished]:
        self._check_alive()
        return sorted(self._disk.finished.get(target, FinishedUpdates()).values(), key=lambda item: item.finished_us)

    async def remember(self, target: TargetId, finished: Sequence[Finished]) -> None:
        await self._turn()
        if target in self.chunks:
            for item in finished:
                self._disk.finished[target].note(item)
        self._flush()

    def forget(self, target: TargetId, tickets: Sequence[Ticket]) -> None:
        self._check_alive()
        for ticket in tickets:
            self._disk.finished[target].pop((ticket.client, ticket.channel), None)

    async def abort(self, target: TargetId, chunk: ChunkId, version: ChunkVersion) -> None:
        self._check_alive()
        now = self._find(target, chunk)
        if now.pending is not None and now.pending.version == version:
            self._put(target, chunk, replace(now, pending=None))
            self.dirty.setdefault((target, chunk), [])

    # --- reading -----------------------------------------------------------------------------------------------

    async def read(self, ops: Sequence[ReadOp]) -> list[ReadResult]:
        results = [self._read_one(op) for op in ops]
        await self._turn()
        return results

    async def read_array(self, reads: ReadArray, data: memoryview) -> None:
        ops, start = [], 0
        for target, chunk, offset, size in zip(
            reads["target"].tolist(),
            reads["chunk"].tolist(),
            reads["offset"].tolist(),
            reads["bytes"].tolist(),
            strict=True,
        ):
            ops.append(ReadOp(TargetId(target), ChunkId.unpack(chunk), offset, data[start : start + size]))
            start += size
        for index, result in enumerate(await self.read(ops)):
            reads["error"][index] = 1 if result.error else 0
            for name in ("length", "crc32c", "committed", "pending", "committed_chain_version"):
                reads[name.removeprefix("committed_")][index] = getattr(result, name)

    def read_frame(
        self, body: bytes, data: memoryview, grants: Sequence[tuple[int, int, int, bool]]
    ) -> FrameAnswer | None:
        """Never at hand: every read takes the way on which faults and delays happen."""
        return None

    def _read_one(self, op: ReadOp) -> ReadResult:
        try:
            now = self._find(op.target, op.chunk)
        except NotFound as exc:
            return ReadResult(error=exc)
        state = now.pending if op.pending else now.committed
        done = now.committed
        versions = (
            now.version,
            now.pending.version if now.pending else ChunkVersion(0),
            done.chain_version if done else ChainVersion(0),
        )
        if state is None:
            return ReadResult(0, 0, *versions)
        try:
            state.check()
        except ChecksumMismatch as exc:
            return ReadResult(0, 0, *versions, error=ChecksumMismatch(f"chunk {op.chunk}: {exc}"))
        piece = state.data[op.offset : op.offset + len(op.buffer)]
        op.buffer[: len(piece)] = piece
        return ReadResult(len(piece), crc32c(piece), *versions)

    async def query(self, target: TargetId, chunks: Sequence[ChunkId]) -> list[ChunkMeta | None]:
        self._check_alive()
        found = [(chunk, self._find(target, chunk)) for chunk in chunks]
        return [now.meta(chunk) if now.committed or now.pending else None for chunk, now in found]

    async def list(
        self, target: TargetId, begin: ChunkId, end: ChunkId, *, limit: int = 1000, reverse: bool = False
    ) -> Sequence[ChunkMeta]:
        self._check_alive()
        if target not in self.chunks:
            raise NotFound(f"no target {target} on this disk")
        found = self.chunks[target]
        keys = found.irange(begin, end, inclusive=(True, False), reverse=reverse)
        return [found[key].meta(key) for key, _ in zip(keys, range(limit), strict=False)]

    async def verify(self, target: TargetId, chunk: ChunkId) -> ThreefsError | None:
        await self._turn()
        done = self._find(target, chunk).committed
        try:
            if done:
                done.check()
        except ChecksumMismatch as exc:
            return ChecksumMismatch(f"chunk {chunk}: {exc}")
        return None

    async def space(self) -> SpaceInfo:
        self._check_alive()
        free = max(0, self._disk.capacity_bytes - self._used_bytes)
        return SpaceInfo(self._disk.capacity_bytes, free, self._used_bytes, sum(map(len, self.chunks.values())))

    # --- the disk ----------------------------------------------------------------------------------------------

    async def check(self) -> None:
        await self._turn()

    async def sync(self) -> None:
        await self._turn()
        self._flush()

    async def close(self) -> None:
        if self.dead:
            return
        if not self._disk.failed:
            self._flush()
        self.dead = True
        if self._disk.engine is self:
            self._disk.engine = None

    def store(self, target: TargetId, chunk: ChunkId) -> None:
        """Makes the chunk's present states stable."""
        stable = self._disk.stable.get(target)
        if stable is None:
            return
        for item in self.dirty.get((target, chunk), []):
            self._disk.finished[target].note(item)
        now = self._find(target, chunk)
        if now.committed or now.pending:
            stable[chunk] = now
        else:
            stable.pop(chunk, None)

    def _flush(self) -> None:
        for target, chunk in self.dirty:
            self.store(target, chunk)
        self.dirty.clear()

    async def _turn(self) -> None:
        """One trip to the disk."""
        self._check_alive()
        shortest, longest = self._disk.latency_s
        if longest > 0:
            await self._runtime.sleep(self._runtime.random.uniform(shortest, longest))
        self._check_alive()

    def _check_alive(self) -> None:
        if self._disk.failed:
            raise DiskFailed("the simulated disk failed")
        if self.dead:
            raise DiskFailed("the engine is closed")

    def _find(self, target: TargetId, chunk: ChunkId) -> Chunk:
        if target not in self.chunks:
            raise NotFound(f"no target {target} on this disk")
        found: Chunk = self.chunks[target].get(chunk, _ABSENT)
        return found

    def _put(self, target: TargetId, chunk: ChunkId, states: Chunk) -> None:
        old = self._find(target, chunk)
        self._used_bytes += states.bytes_used() - old.bytes_used()
        if states.committed or states.pending:
            self.chunks[target][chunk] = states
        else:
            self.chunks[target].pop(chunk, None)


_ABSENT = Chunk()
