"""Half-open key ranges. Used by transactions (what was read, what was cleared) and by the conflict window.

Rule: the stored ranges are disjoint, not adjacent and sorted, whatever was added.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """A set of keys, kept as ranges [begin, end)."""

    def __init__(self) -> None:
        self._begins: list[bytes] = []
        self._ends: list[bytes] = []  # _begins[i] < _ends[i] < _begins[i + 1]

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return zip(self._begins, self._ends, strict=True)

    def __len__(self) -> int:
        return len(self._begins)

    def add(self, begin: bytes, end: bytes) -> None:
        """Adds [begin, end); an empty range adds nothing."""
        if begin >= end:
            return
        first = bisect_left(self._ends, begin)  # the first range that ends at or after begin
        last = bisect_right(self._begins, end)  # one past the last that begins at or before end
        if first < last:
            begin = min(begin, self._begins[first])
            end = max(end, self._ends[last - 1])
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def __contains__(self, key: bytes) -> bool:
        index = bisect_right(self._begins, key) - 1
        return index >= 0 and key < self._ends[index]

    def overlaps(self, begin: bytes, end: bytes) -> bool:
        """Whether any key of [begin, end) is in the set."""
        index = bisect_right(self._ends, begin)  # the first range that ends after begin
        return begin < end and index < len(self._begins) and self._begins[index] < end

    def gaps(self, begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        """What of [begin, end) is not in the set, in order."""
        found = []
        index = bisect_right(self._ends, begin)
        while begin < end and index < len(self._begins) and self._begins[index] < end:
            if begin < self._begins[index]:
                found.append((begin, self._begins[index]))
            begin = self._ends[index]
            index += 1
        if begin < end:
            found.append((begin, end))
        return found
