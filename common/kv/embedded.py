"""The store of one machine: LMDB behind an optimistic conflict check, owned by one process.

Reads go to an LMDB snapshot on the event loop. Commits queue up; one task judges a group of them against the
conflict window, in order, and a thread writes those that pass as one LMDB transaction with one sync. Rule: a commit
is acknowledged, and enters the window, only after that sync.

LMDB numbers its write transactions and keeps the number in its root page. Group n is LMDB's transaction n; a
commit's version is n and its place in the group, and a snapshot at n sees the whole group. Every group writes the key
`_GROUP_KEY`, because LMDB neither numbers nor syncs a transaction that changes nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from threefs.common.errors import Corrupt, InternalError, NoSpace, StoreError
from threefs.common.kv.buffered import BufferedTransaction
from threefs.common.kv.conflicts import Commit, ConflictWindow
from threefs.common.kv.errors import KvConflict, KvMaybeCommitted, KvTooOld, KvUnavailable
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
SNAPSHOTS_MAX: Final = 4096
SCAN_BYTES: Final = 2 << 20  # holds at least one pair of the greatest size
SPACE_BYTES_MIN: Final = 1 << 20  # with less, a write that fails is taken to fail for want of space

_ORDER_BITS: Final = 16  # commits of a group fit
_OPERATION: Final = struct.Struct("<BxHI")  # kv_store.h
_PAIR: Final = struct.Struct("<II")
_GROUP_KEY: Final = b"\xffgroup"  # above every key that a transaction may use
_FORMAT_KEY: Final = b"\xffformat"
_FORMAT: Final = b"threefs-kv 1"
_FILE: Final = "data.mdb"  # LMDB's name for it


def encode_operation(kind: int, key: bytes, value: bytes = b"") -> bytes:
    """One operation of a batch for `kv_commit`."""
    return _OPERATION.pack(kind, len(key), len(value)) + key + value


def check(code: int, action: str) -> None:
    """Turns what a `kv_*` function returned into the error it means."""
    if code == 0:
        return
    reason = str(ffi.string(lib.kv_strerror(code)).decode())
    if code in (errno.ENOSPC, errno.EDQUOT):
        raise NoSpace(f"{action}: the disk is full; nothing was committed, free some space")
    if code == lib.KV_MAP_FULL:
        raise NoSpace(f"{action}: the store has reached kv.map_bytes_max; raise it and restart")
    if code == lib.KV_READERS_FULL:
        raise KvUnavailable(f"{action}: {SNAPSHOTS_MAX} transactions are open at once, which is the limit")
    if code == errno.EIO:
        raise KvMaybeCommitted(f"{action}: {reason}; the outcome is unknown, the disk may be failing")
    if code < 0:
        raise Corrupt(f"{action}: {reason}; the store is damaged, restore it from a copy")
    raise KvUnavailable(f"{action}: {reason}")


@dataclass(slots=True)
class _Waiting:
    transaction: _EmbeddedTransaction
    outcome: asyncio.Future[int]


class EmbeddedEngine(KvEngine):
    """An open store; make it with `EmbeddedEngine.open`."""

    name = "embedded"
    versionstamps = True
    limits = LIMITS

    def __init__(self, runtime: Runtime, folder: Path, store: Any, owner: OwnerLock) -> None:
        super().__init__(runtime)
        self.folder = folder
        self.snapshots: dict[_EmbeddedTransaction, None] = {}  # open ones, oldest first
        self.scan_buffer = ffi.new("uint8_t[]", SCAN_BYTES)
        self._store = store
        self._owner = owner
        self._queue: deque[_Waiting] = deque()
        self._committer: asyncio.Task[None] | None = None
        self._broken: str = ""  # why no commit is taken any more
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kv-commit")
        self._group = self._read_group()  # number of the newest committed group
        self.window = ConflictWindow((self._group + 1 << _ORDER_BITS) - 1)

    @classmethod
    async def open(cls, runtime: Runtime, folder: Path, map_bytes_max: int) -> EmbeddedEngine:
        """Opens or creates the store; KvOwned if another process has it, KvUnavailable if the folder is no good."""
        return await asyncio.get_running_loop().run_in_executor(None, cls._open, runtime, folder, map_bytes_max)

    @classmethod
    def _open(cls, runtime: Runtime, folder: Path, map_bytes_max: int) -> EmbeddedEngine:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise KvUnavailable(f"cannot create {folder}: {exc.strerror}; fix kv.path") from exc
        owner = OwnerLock(folder)
        try:
            if not (folder / _FILE).exists():
                _create(folder)
            store = _open_raw(folder, map_bytes_max)
            try:
                _check_format(store, folder)
                return cls(runtime, folder, store, owner)
            except BaseException:
                lib.kv_close(store)
                raise
        except BaseException:
            owner.release()
            raise

    def begin(self) -> Transaction:
        return _EmbeddedTransaction(self)

    async def close(self) -> None:
        """Ends open transactions, waits for the running group, gives the store free."""
        if self._store is None:
            return
        self._broken = "it is closed"
        if self._committer is not None:
            await asyncio.gather(self._committer, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        for transaction in list(self.snapshots):
            transaction.cancel()
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

    def open_snapshot(self, transaction: _EmbeddedTransaction) -> tuple[Any, int]:
        """An LMDB snapshot and the version that it is at; `close_snapshot` gives it back."""
        if self._store is None:
            raise KvUnavailable(f"store {self.folder} is closed")
        raw, group = self._open_snapshot()
        self.snapshots[transaction] = None
        return raw, (group + 1 << _ORDER_BITS) - 1

    def close_snapshot(self, transaction: _EmbeddedTransaction, raw: Any) -> None:
        del self.snapshots[transaction]
        lib.kv_snapshot_close(raw)

    async def enqueue(self, transaction: _EmbeddedTransaction) -> int:
        """Commits with the next group; the outcome is not affected by cancelling this call."""
        if self._broken:
            raise KvUnavailable(f"store {self.folder} takes no commits: {self._broken}")
        waiting = _Waiting(transaction, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._committer is None or self._committer.done():
            self._committer = self.runtime.spawn(self._commit_groups(), name="kv-commit")
        return await waiting.outcome

    async def _commit_groups(self) -> None:
        try:
            while self._queue:
                await self._commit_group()
        finally:  # not empty only if this task was cancelled
            for waiting in self._queue:
                _fail(waiting, KvUnavailable(f"store {self.folder} is closing"))
            self._queue.clear()

    async def _commit_group(self) -> None:
        self._forget_old()
        group, fresh = self._group + 1, ConflictWindow(self.window.floor)
        taken: list[tuple[_Waiting, int]] = []
        batch = [encode_operation(lib.KV_SET, _GROUP_KEY, group.to_bytes(8, "big"))]
        batch_bytes = 0
        while self._queue and len(taken) < GROUP_COMMITS_MAX and batch_bytes < GROUP_BYTES_MAX:
            waiting = self._queue.popleft()
            version = (group << _ORDER_BITS) + len(taken)
            try:
                operations = waiting.transaction.judge((self.window, fresh), version, self.runtime.now())
            except StoreError as exc:
                _fail(waiting, exc)
                continue
            batch.append(operations)
            batch_bytes += len(operations)
            taken.append((waiting, version))
        if taken:
            await self._write_group(group, fresh, b"".join(batch), taken)

    async def _write_group(
        self, group: int, fresh: ConflictWindow, batch: bytes, taken: list[tuple[_Waiting, int]]
    ) -> None:
        try:
            written = await asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)
            if written != group:
                raise InternalError(f"LMDB numbered group {group} as {written}: another process writes {self.folder}")
        except BaseException as exc:
            if not isinstance(exc, NoSpace):  # LMDB dropped the whole group, and the next may have space again
                self._broken = str(exc) or "its task was cancelled"
            for waiting, _ in taken:
                unknown = KvMaybeCommitted(f"the commit was interrupted: {self._broken}")
                _fail(waiting, exc if isinstance(exc, Exception) else unknown)
            if not isinstance(exc, (NoSpace, StoreError, Corrupt)):
                raise
            return
        self._group = group
        now = self.runtime.now()
        for commit in fresh.commits():
            self.window.add(Commit(commit.version, now, commit.keys, commit.ranges))
        for waiting, version in taken:
            if not waiting.outcome.done():
                waiting.outcome.set_result(version)

    def _write(self, batch: bytes) -> int:
        group = ffi.new("uint64_t *")
        code = lib.kv_commit(self._store, ffi.from_buffer(batch), len(batch), group)
        if code == errno.EIO and self._is_full(len(batch)):
            code = errno.ENOSPC
        check(code, f"writing store {self.folder}")
        return int(group[0])

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


class _EmbeddedTransaction(BufferedTransaction):
    def __init__(self, engine: EmbeddedEngine) -> None:
        super().__init__(LIMITS)
        self.since = 0.0  # when the snapshot was taken
        self._engine = engine
        self._raw: Any = None  # kv_snapshot *, while it is open
        self._version: int | None = None  # of the snapshot

    def _snapshot(self) -> Any:
        engine = self._engine
        if self._version is None:
            self.since = engine.runtime.now()
            self._raw, self._version = engine.open_snapshot(self)
        self._expect_young(engine.runtime.now())
        return self._raw

    def _expect_young(self, now: float) -> None:
        if self._raw is None or now - self.since > LIMITS.transaction_s_max:
            raise KvTooOld(
                f"the transaction is {now - self.since:.1f} s old; {LIMITS.transaction_s_max} s is the limit"
            )

    async def _snapshot_get(self, key: bytes) -> bytes | None:
        raw = self._snapshot()
        value, size = ffi.new("const uint8_t **"), ffi.new("size_t *")
        check(lib.kv_get(raw, key, len(key), value, size), "reading")
        return None if value[0] == ffi.NULL else bytes(ffi.buffer(value[0], size[0]))

    async def _snapshot_range(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        raw, out = self._snapshot(), self._engine.scan_buffer
        used, more = ffi.new("size_t *"), ffi.new("int *")
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

    async def _commit_writes(self) -> int:
        return await self._engine.enqueue(self)

    def judge(self, windows: tuple[ConflictWindow, ConflictWindow], version: int, now: float) -> bytes:
        """The operations to write, if nothing that was read has changed; enters the second window as `version`."""
        if self._version is not None:
            self._expect_young(now)
            for window in windows:
                key = window.conflict(self._version, self._read_keys, self._read_ranges)
                if key is not None:
                    raise KvConflict(f"key {key!r} was changed after version {self._version}")
        pairs = list(self._writes.items()) + self._stamped_pairs(version)
        windows[1].add(Commit(version, now, tuple(key for key, _ in pairs), tuple(self._cleared)))
        cleared = [encode_operation(lib.KV_CLEAR_RANGE, begin, end) for begin, end in self._cleared]
        written = [
            encode_operation(lib.KV_CLEAR, key) if value is None else encode_operation(lib.KV_SET, key, value)
            for key, value in pairs
        ]
        return b"".join(cleared + written)

    def expire(self) -> None:
        """Closes the snapshot; whoever still uses the transaction gets KvTooOld."""
        raw, self._raw = self._raw, None
        if raw is not None:
            self._engine.close_snapshot(self, raw)

    def _release(self) -> None:
        self.expire()


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


def _open_raw(folder: Path, map_bytes: int) -> Any:
    store = ffi.new("kv_store **")
    check(lib.kv_open(os.fsencode(folder), map_bytes, SNAPSHOTS_MAX, store), f"opening store {folder}")
    return store[0]


def _create(folder: Path) -> None:
    """Makes a new store aside and moves it to its place, because LMDB does not sync a new file's first pages."""
    aside = folder / "creating"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    store = _open_raw(aside, 1 << 20)
    batch, group = encode_operation(lib.KV_SET, _FORMAT_KEY, _FORMAT), ffi.new("uint64_t *")
    code = lib.kv_commit(store, batch, len(batch), group)
    lib.kv_close(store)
    check(code, f"creating store {folder}")
    _sync(aside / _FILE)
    (aside / _FILE).rename(folder / _FILE)
    shutil.rmtree(aside)
    _sync(folder)
    _sync(folder.parent)


def _check_format(store: Any, folder: Path) -> None:
    """Corrupt for a store that another program or a later release wrote."""
    snapshot, group = ffi.new("kv_snapshot **"), ffi.new("uint64_t *")
    check(lib.kv_snapshot_open(store, snapshot, group), f"opening store {folder}")
    value, size = ffi.new("const uint8_t **"), ffi.new("size_t *")
    try:
        check(lib.kv_get(snapshot[0], _FORMAT_KEY, len(_FORMAT_KEY), value, size), f"opening store {folder}")
        found = None if value[0] == ffi.NULL else bytes(ffi.buffer(value[0], size[0]))
    finally:
        lib.kv_snapshot_close(snapshot[0])
    if found != _FORMAT:
        raise Corrupt(
            f"{folder} is no store of this release: its format is {found!r}, not {_FORMAT!r}; name another kv.path"
        )


def _sync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
