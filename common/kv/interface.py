"""The transactional key-value contract that mgmtd and meta stand on: FoundationDB's, reduced to what they use.

A transaction reads one snapshot and buffers its writes; commit succeeds only if nothing that it read (and did
not read as `snapshot=True`) or declared by `add_read_conflict_*` was changed by a transaction that committed
after its snapshot. Reads see the transaction's own writes. Keys and values are bytes; order is bytewise.

`KvEngine.transact` is the way to run one: it retries conflicts with bounded back-off. The body may run several
times, so it must have no other effect than through the transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from threefs.common.errors import Throttled, Unsupported
from threefs.common.kv.errors import KvConflict, KvMaybeCommitted, KvTooOld, KvUnavailable
from threefs.common.kv.metrics import ATTEMPTS, of_engine
from threefs.common.runtime.interface import Runtime

T = TypeVar("T")
KeyValue = tuple[bytes, bytes]

RETRIED: Final = (KvConflict, KvTooOld, KvMaybeCommitted, KvUnavailable, Throttled)
RETRY_DELAY_S_MIN: Final = 0.001
RETRY_DELAY_S_MAX: Final = 0.25


@dataclass(frozen=True, slots=True)
class KvLimits:
    """What one engine takes at most; an operation beyond raises `KvLimitError` that names the limit."""

    key_bytes_max: int
    value_bytes_max: int
    transaction_bytes_max: int
    transaction_s_max: float


class Transaction(ABC):
    """One attempt. Not safe for concurrent commit; reads may run concurrently."""

    @abstractmethod
    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        """The value of `key`, or None. `snapshot` reads add no conflict."""

    @abstractmethod
    async def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> list[KeyValue]:
        """Pairs with begin <= key < end in key order (`reverse`: from the end), `limit` at most (0: all).

        The conflict range is what was really looked at: up to the last pair returned if `limit` cut it.
        A key inserted or deleted inside that range by another transaction is a conflict.
        """

    @abstractmethod
    def set(self, key: bytes, value: bytes) -> None: ...

    @abstractmethod
    def clear(self, key: bytes) -> None: ...

    @abstractmethod
    def clear_range(self, begin: bytes, end: bytes) -> None: ...

    def set_versionstamped(self, prefix: bytes, value: bytes) -> None:
        """Sets the key `prefix` + 12 bytes that grow with each commit, and within one with each call.

        An optional capability (`KvEngine.versionstamps`) that no protocol needs. Own reads don't see the key.
        """
        raise Unsupported("this store has no version stamps")

    @abstractmethod
    def add_read_conflict_key(self, key: bytes) -> None:
        """Commit fails if another transaction wrote `key` after this one's snapshot."""

    @abstractmethod
    def add_read_conflict_range(self, begin: bytes, end: bytes) -> None: ...

    @abstractmethod
    async def commit(self) -> int:
        """Makes the writes durable and visible at once; returns the commit version (0 if nothing was written).

        Raises `KvConflict`, `KvTooOld`, `KvMaybeCommitted` (the outcome is unknown), `KvLimitError`.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Drops the attempt; idempotent; allowed after commit."""


class KvEngine(ABC):
    """One store. `name` is what configuration and error messages call it."""

    name: str
    limits: KvLimits
    versionstamps: bool = False
    gathers_reads: bool = False  # reads of one transaction that wait at the same time share round trips

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @abstractmethod
    def begin(self) -> Transaction:
        """A new transaction; its snapshot is taken at its first read."""

    def begin_reading(self) -> Transaction:
        """A transaction that will write nothing; an engine may make it cheaper than any other."""
        return self.begin()

    @abstractmethod
    async def close(self) -> None: ...

    async def transact(self, body: Callable[[Transaction], Awaitable[T]], *, timeout_s: float = 5.0) -> T:
        """Runs body and commits, again on conflict / too old / maybe committed / unavailable, with bounded back-off.

        A body whose effect must not happen twice has to be idempotent by itself (request ids): after
        KvMaybeCommitted it runs again although the first attempt may have taken effect.
        Raises the last error once `timeout_s` is over.
        """
        begun = self.runtime.now()
        delay_s = RETRY_DELAY_S_MIN
        while True:
            transaction = self.begin()
            try:
                result = await body(transaction)
                await transaction.commit()
                committed, seconds = of_engine(self.name)
                committed.inc()
                seconds.observe(self.runtime.now() - begun)
                return result
            except RETRIED as exc:
                ATTEMPTS.labels(self.name, type(exc).__name__).inc()
                pause_s = self.runtime.jitter(delay_s, 0.5)
                if self.runtime.now() + pause_s >= begun + timeout_s:
                    raise
            finally:
                transaction.cancel()
            await self.runtime.sleep(pause_s)
            delay_s = min(2 * delay_s, RETRY_DELAY_S_MAX)

    async def read(self, body: Callable[[Transaction], Awaitable[T]], *, timeout_s: float = 5.0) -> T:
        """Runs a body that only reads, at one snapshot; nothing is committed."""
        transaction = self.begin_reading()
        try:
            return await body(transaction)  # nearly always once is enough, and then it need not be prepared for more
        except RETRIED as exc:
            ATTEMPTS.labels(self.name, type(exc).__name__).inc()
        finally:
            transaction.cancel()
        return await self.transact(body, timeout_s=timeout_s)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys that start with `prefix`; raises ValueError for an empty or all-0xff prefix."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        raise ValueError(f"prefix {prefix!r} has no end")
    return stripped[:-1] + bytes([stripped[-1] + 1])


def key_after(key: bytes) -> bytes:
    """The smallest key greater than `key`."""
    return key + b"\x00"
