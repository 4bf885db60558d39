"""A transaction that keeps its writes to itself until commit; the base of every engine but fdb.

An engine adds how to read its snapshot and how to commit. Here: own writes over the snapshot, the read set, limits.
Rule: what is read (and not `snapshot`) is in the read set before the value is returned.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from typing import Final

from threefs.common.errors import InternalError
from threefs.common.kv.errors import KvLimitError
from threefs.common.kv.interface import KeyValue, KvLimits, Transaction, key_after
from threefs.common.kv.ranges import RangeSet

KEY_END: Final = b"\xff"  # keys from here on are FoundationDB's own; no engine takes them

_STAMP = struct.Struct(">QHH")


def version_stamp(version: int, order: int) -> bytes:
    """12 bytes that grow with each commit: BE64 commit version, BE16 zero, BE16 order within the transaction."""
    return _STAMP.pack(version, 0, order)


def check_key(key: bytes, limits: KvLimits) -> None:
    """Raises KvLimitError unless every engine with these limits can store `key`."""
    if not key or key >= KEY_END:
        raise KvLimitError(f"key {key!r} is empty or starts with 0xff; give it a prefix below 0xff")
    if len(key) > limits.key_bytes_max:
        raise KvLimitError(f"key {key[:32]!r}… has {len(key)} bytes; this store takes {limits.key_bytes_max}")


def check_pair(key: bytes, value: bytes, limits: KvLimits) -> None:
    """`check_key`, and the same for the value."""
    check_key(key, limits)
    if len(value) > limits.value_bytes_max:
        raise KvLimitError(
            f"value of key {key[:32]!r} has {len(value)} bytes; this store takes {limits.value_bytes_max}"
        )


class BufferedTransaction(Transaction):
    """Own writes in a dict, cleared ranges in a RangeSet; at commit the ranges are cleared first, then writes set."""

    def __init__(self, limits: KvLimits) -> None:
        self._limits = limits
        self._writes: dict[bytes, bytes | None] = {}  # None: cleared
        self._cleared = RangeSet()  # without the keys set again since, which are in _writes
        self._stamped: list[KeyValue] = []
        self._read_keys: dict[bytes, None] = {}
        self._read_ranges = RangeSet()
        self._write_bytes = 0
        self._finished = False

    # What an engine adds.

    @abstractmethod
    async def _snapshot_get(self, key: bytes) -> bytes | None:
        """The value at the snapshot, which the first read takes."""

    @abstractmethod
    async def _snapshot_range(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        """Pairs at the snapshot; limit 0 means all."""

    @abstractmethod
    async def _commit_writes(self) -> int:
        """Checks the read set and makes the writes durable; called once, with at least one write."""

    def _release(self) -> None:
        """Gives back what the snapshot holds; may be called more than once."""

    # The contract.

    async def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        self._expect_open()
        if key in self._writes:
            return self._writes[key]
        if key in self._cleared:
            return None
        check_key(key, self._limits)
        if not snapshot:
            self._read_keys[key] = None
        return await self._snapshot_get(key)

    async def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> list[KeyValue]:
        self._expect_open()
        assert begin <= end, f"range {begin!r} to {end!r} is inverted"
        assert limit >= 0, f"limit {limit}"
        pairs = await self._merged(begin, end, limit, reverse)
        if not snapshot:
            if limit and len(pairs) == limit:
                last = pairs[-1][0]
                begin, end = (last, end) if reverse else (begin, key_after(last))
            self._read_ranges.add(begin, end)
        return pairs

    def set(self, key: bytes, value: bytes) -> None:
        self._expect_open()
        check_pair(key, value, self._limits)
        self._writes[key] = value
        self._write_bytes += len(key) + len(value)

    def clear(self, key: bytes) -> None:
        self._expect_open()
        check_key(key, self._limits)
        self._writes[key] = None
        self._write_bytes += len(key)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self._expect_open()
        assert begin <= end, f"range {begin!r} to {end!r} is inverted"
        self._cleared.add(begin, end)
        for key in [key for key in self._writes if begin <= key < end]:
            del self._writes[key]
        self._write_bytes += len(begin) + len(end)

    def set_versionstamped(self, prefix: bytes, value: bytes) -> None:
        self._expect_open()
        check_pair(prefix + version_stamp(0, 0), value, self._limits)
        self._stamped.append((prefix, value))
        self._write_bytes += len(prefix) + len(value)

    def add_read_conflict_key(self, key: bytes) -> None:
        self._expect_open()
        self._read_keys[key] = None

    def add_read_conflict_range(self, begin: bytes, end: bytes) -> None:
        self._expect_open()
        self._read_ranges.add(begin, end)

    async def commit(self) -> int:
        self._expect_open()
        self._finished = True
        try:
            if not (self._writes or self._cleared or self._stamped):
                return 0
            if self._write_bytes > self._limits.transaction_bytes_max:
                raise KvLimitError(
                    f"the transaction writes {self._write_bytes} bytes; this store takes "
                    f"{self._limits.transaction_bytes_max} at once: split it"
                )
            return await self._commit_writes()
        finally:
            self._release()

    def cancel(self) -> None:
        self._finished = True
        self._release()

    # Helpers.

    def _expect_open(self) -> None:
        if self._finished:
            raise InternalError("a transaction was used after commit or cancel")

    def _stamped_pairs(self, version: int) -> list[KeyValue]:
        return [(prefix + version_stamp(version, order), value) for order, (prefix, value) in enumerate(self._stamped)]

    async def _merged(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        """The snapshot's pairs under this transaction's own writes."""
        own = {key: value for key, value in self._writes.items() if begin <= key < end}
        wanted = limit + sum(value is None for value in own.values()) if limit else 0  # each may hide one
        seen: dict[bytes, bytes] = {}
        gaps = self._cleared.gaps(begin, end)
        for low, high in reversed(gaps) if reverse else gaps:
            seen.update(await self._snapshot_range(low, high, wanted - len(seen) if wanted else 0, reverse))
            if wanted and len(seen) >= wanted:
                break
        merged = [pair for pair in seen.items() if pair[0] not in own]
        if wanted and len(seen) >= wanted:  # cut: own writes beyond the last pair seen are not next in order
            last = next(reversed(seen))
            own = {key: value for key, value in own.items() if (key > last if reverse else key < last) or key == last}
        merged += [(key, value) for key, value in own.items() if value is not None]
        merged.sort(reverse=reverse)
        return merged[:limit] if limit else merged
