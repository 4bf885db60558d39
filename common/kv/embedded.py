"""The store of one machine: LMDB behind an optimistic conflict check, owned by one process.

Reads go to an LMDB snapshot on the event loop. Commits queue up; when no group is being written, the next one is judged
against the conflict window, in order, and the store's thread writes those that pass as one LMDB transaction with one
sync. A lone commit is written on the event loop's own thread while the disk is quick: nobody else waits, and waking two
threads costs more than the sync. Rule: a commit is acknowledged, and enters the window, only after that sync.

LMDB numbers its write transactions and keeps the number in its root page. Group n is LMDB's transaction n; a
commit's version is n and its place in the group, and a snapshot at n sees the whole group. Every group writes the key
`_GROUP_KEY`, because LMDB neither numbers nor syncs a transaction that changes nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from threefs.common.errors import InternalError, NoSpace
from threefs.common.kv.buffered import KEY_END, BufferedTransaction, check_key
from threefs.common.kv.conflicts import Commit, ConflictWindow
from threefs.common.kv.embedded_files import check, encode_operation, open_files
from threefs.common.kv.errors import KvConflict, KvTooOld, KvUnavailable
from threefs.common.kv.interface import KeyValue, KvEngine, KvLimits, Transaction
from threefs.common.kv.owner import OwnerLock
from threefs.common.runtime.interface import Runtime
from threefs.native._core import ffi, lib

LIMITS: Final = KvLimits(
    key_bytes_max=511,  # LMDB's, fixed when it is compiled
    value_bytes_max=1 << 20,
    transaction_bytes_max=16 << 20,
    transaction_s_max=5.0,  # an open snapshot keeps LMDB from reusing freed pages
)
GROUP_COMMITS_MAX: Final = 4096
GROUP_BYTES_MAX: Final = 32 << 20
COMMITS_REMEMBERED: Final = 8  # of about as many is the time averaged that a commit takes
LONE_S_MAX: Final = 0.002  # a lone commit may keep the event loop waiting so long
SCAN_BYTES: Final = 2 << 20  # holds at least one pair of the greatest size
SPACE_BYTES_MIN: Final = 1 << 20  # with less, a write that fails is taken to fail for want of space

_ORDER_BITS: Final = 16  # commits of a group fit
_PAIR: Final = struct.Struct("<II")
_GROUP_KEY: Final = b"\xffgroup"  # above every key that a transaction may use


@dataclass(slots=True)
class _Waiting:
    transaction: _EmbeddedTransaction
    outcome: asyncio.Future[int]


class _Group:
    """Transactions that commit together, in the order in which they were judged."""

    def __init__(self, number: int) -> None:
        self.number = number  # LMDB's, if nobody else writes
        self.taken: list[_Waiting] = []
        self.commits: list[Commit] = []
        self.operations = [encode_operation(lib.KV_SET, _GROUP_KEY, number.to_bytes(8, "big"))]
        self.batch = b""
        self.began = 0.0
        self._window: ConflictWindow | None = None

    def window(self, floor: int) -> ConflictWindow:
        """What those before in the group change; most groups have one member and need none."""
        if self._window is None:
            if not self.taken:
                return _NOTHING
            self._window = ConflictWindow(floor)
        for commit in self.commits[len(self._window) :]:
            self._window.add(commit)
        return self._window


_NOTHING: Final = ConflictWindow(0)


class EmbeddedEngine(KvEngine):
    """An open store; make it with `EmbeddedEngine.open`."""

    name = "embedded"
    versionstamps = True
    limits = LIMITS

    def __init__(self, runtime: Runtime, folder: Path, store: Any, owner: OwnerLock) -> None:
        super().__init__(runtime)
        self.folder = folder
        self.snapshots: dict[_Snapshot, None] = {}  # open ones, oldest first
        self._scan_buffer = ffi.new("uint8_t[]", SCAN_BYTES)
        self._found = ffi.new("const uint8_t **"), ffi.new("size_t *")  # filled and used up without an await between
        self._store = store
        self._owner = owner
        self._queue: deque[_Waiting] = deque()
        self._writing: _Group | None = None  # what the store's thread is at
        self._commit_s = 0.0  # what a commit took of late
        self._start: asyncio.Handle | None = None  # a call of `_start_group` that is to come
        self._idle: asyncio.Future[None] | None = None  # set when `close` waits for the group that is being written
        self._broken: str = ""  # why no commit is taken any more
        self._loop = asyncio.get_running_loop()
        self._group = self._read_group()  # number of the newest committed group
        self.window = ConflictWindow((self._group + 1 << _ORDER_BITS) - 1)

    @classmethod
    async def open(cls, runtime: Runtime, folder: Path, map_bytes_max: int) -> EmbeddedEngine:
        """Opens or creates the store; KvOwned if another process has it, KvUnavailable if the folder is no good."""
        loop = asyncio.get_running_loop()
        store, owner = await loop.run_in_executor(None, open_files, folder, map_bytes_max)
        engine = cls(runtime, folder, store, owner)
        loop.add_reader(lib.kv_event_fd(store), engine._group_written)
        return engine

    def begin(self) -> Transaction:
        return _EmbeddedTransaction(self)

    def begin_reading(self) -> Transaction:
        return _EmbeddedReader(self)

    async def close(self) -> None:
        """Ends open transactions, waits for the running group, gives the store free."""
        if self._store is None:
            return
        self._broken = "it is closed"
        if self._start is not None:
            self._start.cancel()
            self._start_group()
        if self._writing is not None:
            self._idle = self._loop.create_future()
            await self._idle
        self._loop.remove_reader(lib.kv_event_fd(self._store))
        for snapshot in list(self.snapshots):
            snapshot.expire()
        lib.kv_close(self._store)
        self._store = None
        self._owner.release()

    def _read_group(self) -> int:
        snapshot, group = self._open_snapshot()
        lib.kv_snapshot_close(snapshot)
        return group

    def _open_snapshot(self) -> tuple[Any, int]:
        snapshot, group = ffi.new("kv_snapshot **"), ffi.new("uint64_t *")
        check(lib.kv_snapshot_open(self._store, snapshot, group), f"reading store {self.folder}")
        return snapshot[0], int(group[0])

    def open_snapshot(self, owner: _Snapshot) -> tuple[Any, int]:
        """An LMDB snapshot and the version that it is at; `close_snapshot` gives it back."""
        if self._store is None:
            raise KvUnavailable(f"store {self.folder} is closed")
        raw, group = self._open_snapshot()
        self.snapshots[owner] = None
        return raw, (group + 1 << _ORDER_BITS) - 1

    def close_snapshot(self, owner: _Snapshot, raw: Any) -> None:
        del self.snapshots[owner]
        lib.kv_snapshot_close(raw)

    def get(self, raw: Any, key: bytes) -> bytes | None:
        """The value at a snapshot."""
        value, size = self._found
        code = lib.kv_get(raw, key, len(key), value, size)
        if code:
            check(code, "reading")
        found = value[0]
        return bytes(ffi.buffer(found, size[0])) if found else None

    def scan(self, raw: Any, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        """Pairs at a snapshot."""
        used, more = ffi.new("size_t *"), ffi.new("int *")
        out = self._scan_buffer
        pairs: list[KeyValue] = []
        while True:
            left = limit - len(pairs) if limit else 0
            code = lib.kv_scan(raw, begin, len(begin), end, len(end), left, reverse, out, SCAN_BYTES, used, more)
            check(code, "reading")
            _decode_pairs(ffi.buffer(out, used[0]), pairs)
            if not more[0]:
                return pairs
            last = pairs[-1][0]
            begin, end = (begin, last) if reverse else (last + b"\x00", end)

    async def enqueue(self, transaction: _EmbeddedTransaction) -> int:
        """Commits with the next group; the outcome is not affected by cancelling this call."""
        if self._broken:
            raise KvUnavailable(f"store {self.folder} takes no commits: {self._broken}")
        waiting = _Waiting(transaction, self._loop.create_future())
        self._queue.append(waiting)
        if self._writing is None and self._start is None:  # soon: what comes in the same turn of the loop goes along
            self._start = self._loop.call_soon(self._start_group)
        return await waiting.outcome

    def _start_group(self) -> None:
        """Judges what waits, and writes what may commit or has it written."""
        assert self._writing is None, "a group is being written"
        self._start = None
        self._forget_old()
        group = _Group(self._group + 1)
        batch_bytes = 0
        while self._queue and len(group.taken) < GROUP_COMMITS_MAX and batch_bytes < GROUP_BYTES_MAX:
            batch_bytes += self._take(group, self._queue.popleft())
        if group.taken:
            self._writing = group
            group.batch = b"".join(group.operations)
            group.began = self.runtime.now()
            if self._is_lone(group):
                number = ffi.new("uint64_t *")
                code = lib.kv_commit(self._store, ffi.from_buffer(group.batch), len(group.batch), number)
                self._end_group(code, number[0])
            else:
                lib.kv_commit_begin(self._store, ffi.from_buffer(group.batch), len(group.batch))

    def _is_lone(self, group: _Group) -> bool:
        """Whether the group is one commit that nobody else's transaction waits behind, and the disk is quick."""
        return len(group.taken) == 1 and len(self.snapshots) <= 1 and self._commit_s < LONE_S_MAX

    def _take(self, group: _Group, waiting: _Waiting) -> int:
        """Makes a transaction part of the group, unless something that it read has changed; the bytes it adds."""
        version = (group.number << _ORDER_BITS) + len(group.taken)
        try:
            commit, operations = waiting.transaction.judge((self.window, group.window(self.window.floor)), version)
        except Exception as exc:
            _fail(waiting, exc)
            return 0
        group.commits.append(commit)
        group.operations.append(operations)
        group.taken.append(waiting)
        return len(operations)

    def _group_written(self) -> None:
        """The store's thread is done."""
        number = ffi.new("uint64_t *")
        self._end_group(lib.kv_commit_end(self._store, number), number[0])

    def _end_group(self, code: int, number: int) -> None:
        """Acknowledges what was written as LMDB's transaction `number`, and goes on with what has come meanwhile."""
        group, self._writing = self._writing, None
        assert group is not None, "no group is being written"
        self._commit_s += (self.runtime.now() - group.began - self._commit_s) / COMMITS_REMEMBERED
        try:
            self._check_written(group, code, number)
        except Exception as exc:
            if not isinstance(exc, NoSpace):  # LMDB dropped the whole group, and the next may have space again
                self._broken = str(exc)
            for waiting in group.taken:
                _fail(waiting, exc)
        else:
            self._acknowledge(group)
        if self._broken:
            for waiting in self._queue:
                _fail(waiting, KvUnavailable(f"store {self.folder} takes no commits: {self._broken}"))
            self._queue.clear()
        if self._queue:
            self._start_group()
        if self._idle is not None and self._writing is None:
            self._idle.set_result(None)

    def _acknowledge(self, group: _Group) -> None:
        self._group = group.number
        now = self.runtime.now()
        for commit in group.commits:
            self.window.add(Commit(commit.version, now, commit.keys, commit.ranges))
        for order, waiting in enumerate(group.taken):
            if not waiting.outcome.done():
                waiting.outcome.set_result((group.number << _ORDER_BITS) + order)

    def _check_written(self, group: _Group, code: int, number: int) -> None:
        """Raises what went wrong with the group."""
        if code == errno.EIO and self._is_full(len(group.batch)):
            code = errno.ENOSPC
        check(code, f"writing store {self.folder}")
        if number != group.number:
            raise InternalError(f"LMDB numbered group {group.number} as {number}: another process writes {self.folder}")

    def _is_full(self, batch_bytes: int) -> bool:
        """Whether EIO was only a short write: LMDB names it so. After any other EIO nothing can be said for sure."""
        space = os.statvfs(self.folder)
        return space.f_bavail * space.f_frsize < SPACE_BYTES_MIN + batch_bytes and self._read_group() == self._group

    def _forget_old(self) -> None:
        """Ends snapshots that are too old and forgets the commits that only they would conflict with."""
        oldest = self.runtime.now() - LIMITS.transaction_s_max
        while self.snapshots and (first := next(iter(self.snapshots))).since < oldest:
            first.expire()
        self.window.forget_before(oldest)


class _Snapshot:
    """What a transaction of either kind reads: taken at its first read, given back at its end or when it is too old."""

    __slots__ = ("_engine", "_raw", "since", "version")

    def __init__(self, engine: EmbeddedEngine) -> None:
        self.since = 0.0  # when it was taken
        self.version: int | None = None
        self._engine = engine
        self._raw: Any = None  # kv_snapshot *, while it is open

    def raw(self) -> Any:
        """The open snapshot; KvTooOld if it is open no longer."""
        now = self._engine.runtime.now()
        if self.version is None:
            self._raw, self.version = self._engine.open_snapshot(self)
            self.since = now
        elif self._raw is None or now - self.since > LIMITS.transaction_s_max:
            self.expect_young(now)
        return self._raw

    def expect_young(self, now: float) -> None:
        if self._raw is None or now - self.since > LIMITS.transaction_s_max:
            raise KvTooOld(
                f"the transaction is {now - self.since:.1f} s old; {LIMITS.transaction_s_max} s is the limit"
            )

    def expire(self) -> None:
        """Closes it; whoever still reads gets KvTooOld."""
        raw, self._raw = self._raw, None
        if raw is not None:
            self._engine.close_snapshot(self, raw)


class _EmbeddedReader(Transaction):
    """Reads one snapshot and keeps no record of what it has read, because nothing is committed."""

    __slots__ = ("_engine", "_snapshot")

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine
        self._snapshot = _Snapshot(engine)

    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        if not 0 < len(key) <= LIMITS.key_bytes_max:
            check_key(key, LIMITS)
        return self._engine.get(self._snapshot.raw(), key)

    async def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> list[KeyValue]:
        assert begin <= end, f"range {begin!r} to {end!r} is inverted"
        assert limit >= 0, f"limit {limit}"
        return self._engine.scan(self._snapshot.raw(), begin, min(end, KEY_END), limit, reverse)

    def set(self, key: bytes, value: bytes) -> None:
        raise InternalError(f"key {key!r} was set in a transaction that only reads")

    def clear(self, key: bytes) -> None:
        raise InternalError(f"key {key!r} was cleared in a transaction that only reads")

    def clear_range(self, begin: bytes, end: bytes) -> None:
        raise InternalError(f"range {begin!r} to {end!r} was cleared in a transaction that only reads")

    def add_read_conflict_key(self, key: bytes) -> None:
        """There is nothing that could conflict."""

    def add_read_conflict_range(self, begin: bytes, end: bytes) -> None:
        """There is nothing that could conflict."""

    async def commit(self) -> int:
        return 0

    def cancel(self) -> None:
        self._snapshot.expire()


class _EmbeddedTransaction(BufferedTransaction):
    def __init__(self, engine: EmbeddedEngine) -> None:
        super().__init__(LIMITS)
        self._engine = engine
        self._snapshot = _Snapshot(engine)

    async def _snapshot_get(self, key: bytes) -> bytes | None:
        return self._engine.get(self._snapshot.raw(), key)

    async def _snapshot_range(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        return self._engine.scan(self._snapshot.raw(), begin, end, limit, reverse)

    async def _commit_writes(self) -> int:
        return await self._engine.enqueue(self)

    def judge(self, windows: tuple[ConflictWindow, ConflictWindow], version: int) -> tuple[Commit, bytes]:
        """What it changes as `version`, and the operations to write, if nothing that was read has changed."""
        snapshot = self._snapshot
        now = self._engine.runtime.now()
        if snapshot.version is not None:
            snapshot.expect_young(now)
            for window in windows:
                key = window.conflict(snapshot.version, self._read_keys, self._read_ranges)
                if key is not None:
                    raise KvConflict(f"key {key!r} was changed after version {snapshot.version}")
        pairs = list(self._writes.items()) + self._stamped_pairs(version)
        commit = Commit(version, now, tuple(key for key, _ in pairs), tuple(self._cleared))
        cleared = [encode_operation(lib.KV_CLEAR_RANGE, begin, end) for begin, end in self._cleared]
        written = [
            encode_operation(lib.KV_CLEAR, key) if value is None else encode_operation(lib.KV_SET, key, value)
            for key, value in pairs
        ]
        return commit, b"".join(cleared + written)

    def _release(self) -> None:
        self._snapshot.expire()


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.outcome.done():
        waiting.outcome.set_exception(error)


def _decode_pairs(raw: Any, pairs: list[KeyValue]) -> None:
    data, at = bytes(raw), 0
    while at < len(data):
        key_bytes, value_bytes = _PAIR.unpack_from(data, at)
        value_at = at + _PAIR.size + key_bytes
        at = value_at + value_bytes
        pairs.append((data[value_at - key_bytes : value_at], data[value_at:at]))
