"""The store of tests and simulations: MVCC in dicts, deterministic, with faults on request.

`MemoryStore` is the data, which outlives the (simulated) processes that use it; each process has a `MemoryEngine`.
Nothing here reads a clock or dice but the runtime's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sortedcontainers import SortedDict

from threefs.common.errors import Throttled
from threefs.common.kv.buffered import BufferedTransaction
from threefs.common.kv.conflicts import Commit, ConflictWindow
from threefs.common.kv.errors import KvConflict, KvMaybeCommitted, KvTooOld, KvUnavailable
from threefs.common.kv.interface import KeyValue, KvEngine, KvLimits, Transaction
from threefs.common.runtime.interface import Runtime


@dataclass(slots=True)
class MemoryFaults:
    """Probabilities, drawn from the engine's runtime at each read or commit. May be changed at any time."""

    conflict: float = 0.0  # commits
    too_old: float = 0.0  # reads and commits
    maybe_committed: float = 0.0  # commits with something to write; half of them really took effect
    throttled: float = 0.0  # reads and commits
    latency_s: float = 0.0  # reads and commits take up to this long, so that transactions interleave


class MemoryStore:
    """Every key's versions of the last seconds. Shared by the engines of all processes of a test."""

    def __init__(self) -> None:
        self.version = 0  # of the newest commit
        self.window = ConflictWindow(0)
        self._versions: SortedDict[bytes, list[tuple[int, bytes | None]]] = SortedDict()  # ascending; None: cleared

    def get(self, key: bytes, version: int) -> bytes | None:
        for written, value in reversed(self._versions.get(key, ())):
            if written <= version:
                return value if value is None else bytes(value)
        return None

    def scan(self, begin: bytes, end: bytes, version: int, reverse: bool) -> Iterator[KeyValue]:
        for key in self._versions.irange(begin, end, inclusive=(True, False), reverse=reverse):
            value = self.get(key, version)
            if value is not None:
                yield key, value

    def apply(self, commit: Commit, pairs: list[tuple[bytes, bytes | None]]) -> None:
        """Makes one commit visible: its ranges are cleared, then `pairs` are set (None: cleared)."""
        for begin, end in commit.ranges:
            for key in list(self._versions.irange(begin, end, inclusive=(True, False))):
                self._versions[key].append((commit.version, None))
        for key, value in pairs:
            history = self._versions.setdefault(key, [])
            if history and history[-1][0] == commit.version:  # cleared by a range just above
                history.pop()
            history.append((commit.version, value))
        self.window.add(commit)
        self.version = commit.version

    def forget_before(self, time: float) -> None:
        """Drops versions that no transaction begun after `time` can see."""
        for commit in self.window.forget_before(time):
            touched = list(commit.keys)
            for begin, end in commit.ranges:
                touched += self._versions.irange(begin, end, inclusive=(True, False))
            for key in touched:
                self._trim(key)

    def _trim(self, key: bytes) -> None:
        history = self._versions.get(key)
        if not history:
            return
        while len(history) > 1 and history[1][0] <= self.window.floor:
            history.pop(0)
        if len(history) == 1 and history[0][1] is None and history[0][0] <= self.window.floor:
            del self._versions[key]


class MemoryEngine(KvEngine):
    """One process's access to a `MemoryStore`."""

    name = "memory"
    versionstamps = True
    # The strictest of all engines, so that what passes here passes everywhere.
    limits = KvLimits(
        key_bytes_max=511, value_bytes_max=100_000, transaction_bytes_max=1_000_000, transaction_s_max=5.0
    )

    def __init__(self, runtime: Runtime, store: MemoryStore | None = None, faults: MemoryFaults | None = None) -> None:
        super().__init__(runtime)
        self.store = store or MemoryStore()
        self.faults = faults or MemoryFaults()
        self.closed = False

    def begin(self) -> Transaction:
        return _MemoryTransaction(self)

    async def close(self) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """From now on this process reaches the store no more; what it has not committed is lost."""
        self.closed = True

    async def fault(self) -> None:
        """What may happen to any request: delay, a closed engine, a busy or impatient store."""
        if self.faults.latency_s:
            await self.runtime.sleep(self.runtime.random.random() * self.faults.latency_s)
        if self.closed:
            raise KvUnavailable("the memory store is closed")
        if self.draw(self.faults.throttled):
            raise Throttled("injected: the store asks for a slower pace")
        if self.draw(self.faults.too_old):
            raise KvTooOld("injected: the snapshot is too old")

    def draw(self, probability: float) -> bool:
        return probability > 0 and self.runtime.random.random() < probability


class _MemoryTransaction(BufferedTransaction):
    def __init__(self, engine: MemoryEngine) -> None:
        super().__init__(engine.limits)
        self._engine = engine
        self._store = engine.store
        self._snapshot: int | None = None
        self._since = 0.0

    def _read_version(self) -> int:
        now = self._engine.runtime.now()
        if self._snapshot is None:
            self._snapshot = self._store.version
            self._since = now
        age = now - self._since
        if age > self._limits.transaction_s_max or self._snapshot < self._store.window.floor:
            raise KvTooOld(f"the transaction is {age:.3f} s old; {self._limits.transaction_s_max} s is the limit")
        return self._snapshot

    async def _snapshot_get(self, key: bytes) -> bytes | None:
        self._read_version()
        await self._engine.fault()
        return self._store.get(key, self._read_version())

    async def _snapshot_range(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        self._read_version()
        await self._engine.fault()
        found = []
        for pair in self._store.scan(begin, end, self._read_version(), reverse):
            found.append(pair)
            if len(found) == limit:
                break
        return found

    async def _commit_writes(self) -> int:
        engine, faults = self._engine, self._engine.faults
        await engine.fault()
        if engine.draw(faults.conflict):
            raise KvConflict("injected: another transaction changed what this one read")
        lost = engine.draw(faults.maybe_committed)
        if lost and engine.runtime.random.random() < 0.5:
            raise KvMaybeCommitted("injected: the outcome is unknown (it did not take effect)")
        version = self._apply()
        if lost:
            raise KvMaybeCommitted("injected: the outcome is unknown (it took effect)")
        return version

    def _apply(self) -> int:
        store, now = self._store, self._engine.runtime.now()
        store.forget_before(now - self._limits.transaction_s_max)
        if self._snapshot is not None:
            key = store.window.conflict(self._read_version(), self._read_keys, self._read_ranges)
            if key is not None:
                raise KvConflict(f"key {key!r} was changed after version {self._snapshot}")
        version = store.version + 1
        pairs = list(self._writes.items()) + self._stamped_pairs(version)
        store.apply(Commit(version, now, tuple(key for key, _ in pairs), tuple(self._cleared)), pairs)
        return version
