"""FoundationDB through its Python binding: conflicts, snapshots and own writes are the client library's.

Rule: nothing here blocks the event loop. Futures of the binding wake it from the network thread; ranges, which the
binding reads batch by batch and blocking, run on a thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from threefs.common.errors import InternalError, StoreError, ThreefsError, Throttled
from threefs.common.kv.buffered import check_key, check_pair
from threefs.common.kv.errors import (
    KvConflict,
    KvLimitError,
    KvMaybeCommitted,
    KvTooOld,
    KvUnavailable,
)
from threefs.common.kv.interface import KeyValue, KvEngine, KvLimits, Transaction, key_after
from threefs.common.runtime.interface import Runtime

API_VERSION: Final = 730
DEFAULT_CLUSTER_FILE: Final = "/etc/foundationdb/fdb.cluster"
OPEN_S_MAX: Final = 5.0

_TRANSACTION_S_MAX: Final = 5.0  # the cluster keeps old versions so long
_STAMP_PLACE: Final = bytes(10)  # the cluster writes 8 bytes of version and 2 of order here
_TIMED_OUT: Final = 1031
_MEANINGS: Final[dict[int, type[ThreefsError]]] = {
    1007: KvTooOld,
    1009: Throttled,  # the storage server has not caught up with the snapshot
    1020: KvConflict,
    1021: KvMaybeCommitted,
    1025: InternalError,  # used after cancel
    1031: KvUnavailable,  # of a read; see `explain` for a commit
    1037: Throttled,  # the storage server is behind
    1038: KvUnavailable,  # the database is locked
    1039: KvMaybeCommitted,  # the cluster's version changed
    1042: Throttled,
    1051: Throttled,
    1078: Throttled,
    1213: Throttled,
    1223: Throttled,
    1515: KvUnavailable,
    2101: KvLimitError,
    2102: KvLimitError,
    2103: KvLimitError,
}


def explain(error: Any, *, commit: bool, fdb: Any) -> ThreefsError:
    """What an FDBError means to the caller; a commit that timed out may have taken effect."""
    text = f"FoundationDB: {_describe(error)} ({error.code})"
    meaning = _MEANINGS.get(error.code)
    if commit and error.code == _TIMED_OUT:
        meaning = KvMaybeCommitted
    if meaning is None and commit and fdb.predicates.is_maybe_committed(error):
        meaning = KvMaybeCommitted
    if meaning is None and fdb.predicates.is_retryable(error):
        meaning = Throttled
    if meaning is KvUnavailable:
        text += "; see `fdbcli --exec 'status details'`"
    if meaning is KvLimitError:
        text += "; split the transaction"
    return (meaning or StoreError)(text)


def _describe(error: Any) -> str:
    description = error.description
    return description.decode() if isinstance(description, bytes) else str(description)


def _find_cluster_file(configured: str) -> Path:
    file = Path(configured or os.environ.get("FDB_CLUSTER_FILE", DEFAULT_CLUSTER_FILE))
    if not file.is_file():
        raise KvUnavailable(
            f"there is no FoundationDB cluster file {file}: start a cluster (package foundationdb-server), or "
            "name the file in kv.cluster_file"
        )
    return file


def _load_binding() -> Any:
    try:
        import fdb
    except ImportError as exc:
        raise KvUnavailable('kv.engine = "fdb" needs the binding: pip install "threefs[fdb]"') from exc
    try:
        fdb.api_version(API_VERSION)
    except Exception as exc:  # the binding raises plain Exception and RuntimeError
        raise KvUnavailable(
            f'kv.engine = "fdb" needs FoundationDB\'s client library libfdb_c.so ({exc}): install the package '
            "foundationdb-clients of your cluster's release"
        ) from exc
    return fdb


async def wait(future: Any) -> Any:
    """The result of a future of the binding; cancelling cancels the request."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake(_: Any) -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if ready.done() else ready.set_result(None))
        except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
            return

    future.on_ready(wake)
    try:
        await ready
    except asyncio.CancelledError:
        future.cancel()
        raise
    return future.wait()


class FdbEngine(KvEngine):
    """One process's access to a store in FoundationDB; make it with `FdbEngine.open`."""

    name = "fdb"
    gathers_reads = True
    versionstamps = True

    def __init__(self, runtime: Runtime, fdb: Any, database: Any, prefix: bytes) -> None:
        super().__init__(runtime)
        self.fdb = fdb
        self.database = database
        self.prefix = prefix
        self.limits = KvLimits(
            key_bytes_max=10_000 - len(prefix),
            value_bytes_max=100_000,
            transaction_bytes_max=9_000_000,  # of 10 MB, which counts prefixes and conflict ranges too
            transaction_s_max=_TRANSACTION_S_MAX,
        )

    @classmethod
    async def open(cls, runtime: Runtime, cluster_file: str, prefix: bytes) -> FdbEngine:
        """Connects; KvUnavailable if the client library, the cluster file or the cluster is missing."""
        file = _find_cluster_file(cluster_file)
        fdb = _load_binding()
        try:
            database = fdb.open(str(file))
        except fdb.FDBError as exc:
            raise explain(exc, commit=False, fdb=fdb) from exc
        engine = cls(runtime, fdb, database, prefix)
        await engine.read(lambda transaction: transaction.get(b"\x00"), timeout_s=OPEN_S_MAX)
        return engine

    def begin(self) -> Transaction:
        return _FdbTransaction(self)

    async def close(self) -> None:
        """The binding keeps its network thread, and connections of a cluster file, until the process ends."""


class _FdbTransaction(Transaction):
    def __init__(self, engine: FdbEngine) -> None:
        self._engine = engine
        self._prefix = engine.prefix
        self._raw: Any = engine.database.create_transaction()
        self._raw.options.set_timeout(int(_TRANSACTION_S_MAX * 1000))
        self._stamps = 0
        self._write_bytes = 0

    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        check_key(key, self._engine.limits)
        reader = self._open().snapshot if snapshot else self._open()
        value = await self._guarded(lambda: reader.get(self._prefix + key))
        return bytes(value) if value.present() else None

    async def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> list[KeyValue]:
        assert begin <= end, f"range {begin!r} to {end!r} is inverted"
        reader = self._open().snapshot if snapshot else self._open()
        span = reader.get_range(self._prefix + begin, self._prefix + end, limit, reverse)
        try:
            pairs = await asyncio.get_running_loop().run_in_executor(None, span.to_list)
        except self._engine.fdb.FDBError as exc:
            raise explain(exc, commit=False, fdb=self._engine.fdb) from exc
        return [(pair.key[len(self._prefix) :], pair.value) for pair in pairs]

    def set(self, key: bytes, value: bytes) -> None:
        check_pair(key, value, self._engine.limits)
        self._open().set(self._prefix + key, value)
        self._write_bytes += len(key) + len(value)

    def clear(self, key: bytes) -> None:
        check_key(key, self._engine.limits)
        self._open().clear(self._prefix + key)
        self._write_bytes += len(key)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        assert begin <= end, f"range {begin!r} to {end!r} is inverted"
        self._open().clear_range(self._prefix + begin, self._prefix + end)
        self._write_bytes += len(begin) + len(end)

    def set_versionstamped(self, prefix: bytes, value: bytes) -> None:
        check_pair(prefix + _STAMP_PLACE + bytes(2), value, self._engine.limits)
        raw = self._open()
        raw.options.set_bypass_unreadable()  # own reads go past it instead of failing
        place = self._prefix + prefix
        order = self._stamps.to_bytes(2, "big")
        raw.set_versionstamped_key(place + _STAMP_PLACE + order + len(place).to_bytes(4, "little"), value)
        self._stamps += 1
        self._write_bytes += len(prefix) + len(value)

    def add_read_conflict_key(self, key: bytes) -> None:
        self.add_read_conflict_range(key, key_after(key))

    def add_read_conflict_range(self, begin: bytes, end: bytes) -> None:
        self._open().add_read_conflict_range(self._prefix + begin, self._prefix + end)

    async def commit(self) -> int:
        raw, self._raw = self._open(), None
        if self._write_bytes > self._engine.limits.transaction_bytes_max:
            raise KvLimitError(
                f"the transaction writes {self._write_bytes} bytes; FoundationDB takes "
                f"{self._engine.limits.transaction_bytes_max} at once: split it"
            )
        await self._guarded(raw.commit, commit=True)
        return max(int(raw.get_committed_version()), 0)  # -1 if nothing was written

    def cancel(self) -> None:
        if self._raw is not None:
            self._raw.cancel()
            self._raw = None

    def _open(self) -> Any:
        if self._raw is None:
            raise InternalError("a transaction was used after commit or cancel")
        return self._raw

    async def _guarded(self, request: Callable[[], Any], *, commit: bool = False) -> Any:
        """Waits for a request; a value is returned as the binding's future, which is ready."""
        fdb = self._engine.fdb
        try:
            future = request()
            await wait(future)
        except fdb.FDBError as exc:
            raise explain(exc, commit=commit, fdb=fdb) from exc
        return future
