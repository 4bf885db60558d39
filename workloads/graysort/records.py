"""The 100-byte records of the sort benchmark, and the native code that makes, checks, sorts and partitions them.

Source of the format: the published description of gensort 1.5. Equal arguments give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from threefs.native._core import ffi, lib
from threefs.native.buffers import buffer

RECORD_BYTES: Final = 100
KEY_BYTES: Final = 10
_NONE = 2**64 - 1
_SCRATCH_BYTES: Final = 32  # a record, for sorting


def _bytes_of(view: memoryview | bytes) -> object:
    return ffi.cast("uint8_t *", ffi.from_buffer(view))


def generate(first: int, count: int, *, ascii_text: bool = False, skewed: bool = False) -> memoryview:
    """Records first … first + count - 1 in a pooled buffer of 100 * count bytes."""
    out = buffer(count * RECORD_BYTES)
    lib.gensort_generate(_bytes_of(out), first, count, ascii_text, skewed)
    return out


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of a stretch of records: enough to judge it and to join it to its neighbours."""

    records: int = 0
    checksum: int = 0  # sum of the CRC-32 of every record; order does not matter
    unordered: int = 0
    first_unordered: int | None = None  # index of the first record below the one before it
    duplicates: int = 0  # neighbours with equal keys
    first_key: bytes = b""
    last_key: bytes = b""

    def __add__(self, later: Summary) -> Summary:
        """The summary of this stretch followed by `later`."""
        if not self.records or not later.records:
            return self if self.records else later
        border_unordered = self.last_key > later.first_key
        shifted = None if later.first_unordered is None else later.first_unordered + self.records
        candidates = (self.first_unordered, self.records if border_unordered else None, shifted)
        return Summary(
            records=self.records + later.records,
            checksum=(self.checksum + later.checksum) % 2**128,
            unordered=self.unordered + later.unordered + border_unordered,
            first_unordered=next((found for found in candidates if found is not None), None),
            duplicates=self.duplicates + later.duplicates + (self.last_key == later.first_key),
            first_key=self.first_key,
            last_key=later.last_key,
        )


def summarise(records: memoryview) -> Summary:
    """Checks a stretch of whole records."""
    count, rest = divmod(len(records), RECORD_BYTES)
    assert not rest, f"{len(records)} bytes are no whole number of records"
    if not count:
        return Summary()
    found = ffi.new("gensort_summary *", {"first_unordered": _NONE})
    lib.gensort_check(_bytes_of(records), count, found)
    return Summary(
        records=count,
        checksum=found.checksum_high << 64 | found.checksum_low,
        unordered=found.unordered,
        first_unordered=None if found.first_unordered == _NONE else found.first_unordered,
        duplicates=found.duplicates,
        first_key=bytes(records[:KEY_BYTES]),
        last_key=bytes(records[-RECORD_BYTES:][:KEY_BYTES]),
    )


def sort_records(pieces: Sequence[memoryview]) -> memoryview:
    """All records of the pieces in key order, equal keys in their old order, in a new buffer."""
    size = sum(map(len, pieces))
    out, scratch = buffer(size), buffer(size // RECORD_BYTES * _SCRATCH_BYTES)
    views = [ffi.from_buffer(piece) for piece in pieces]
    addresses = ffi.new("uint8_t *[]", [ffi.cast("uint8_t *", view) for view in views])
    counts = ffi.new("uint64_t[]", [len(piece) // RECORD_BYTES for piece in pieces])
    lib.record_sort(_bytes_of(out), addresses, counts, len(pieces), ffi.from_buffer(scratch))
    return out


@dataclass(frozen=True, slots=True)
class Partitioned:
    """Records grouped by key range, one range behind the other."""

    data: memoryview
    ends: tuple[int, ...]  # where each range ends in data

    def __getitem__(self, number: int) -> memoryview:
        return self.data[self.ends[number - 1] if number else 0 : self.ends[number]]

    def __len__(self) -> int:
        return len(self.ends)


def partition(records: memoryview, splitters: bytes) -> Partitioned:
    """The records by key range: range p has those with splitters[p - 1] <= key < splitters[p].

    `splitters` is a concatenation of sorted 10-byte keys; n of them make n + 1 ranges.
    """
    partitions = len(splitters) // KEY_BYTES + 1
    out = buffer(len(records))
    counts = ffi.new("uint64_t[]", partitions)
    count = len(records) // RECORD_BYTES
    if lib.record_partition(_bytes_of(out), _bytes_of(records), count, _bytes_of(splitters), partitions, counts):
        raise MemoryError(f"no memory to partition {len(records)} bytes of records")
    return Partitioned(out, tuple(accumulate(found * RECORD_BYTES for found in counts)))
