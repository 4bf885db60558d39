"""Which keys recent commits changed: how an engine with one owner decides whether a transaction may commit.

Used by the memory and the embedded engine. Rule: a snapshot below `floor` is never judged; it is too old.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Commit:
    """What one committed transaction changed."""

    version: int
    time: float  # when it committed, on the runtime's clock
    keys: tuple[bytes, ...]
    ranges: tuple[tuple[bytes, bytes], ...]


class ConflictWindow:
    """The commits of the last few seconds. Keys are looked up; for ranges, which few transactions read, the commits
    since the snapshot are gone through: there are hardly any, because transactions take milliseconds."""

    def __init__(self, floor: int) -> None:
        self.floor = floor  # commits up to this version are forgotten
        self._commits: deque[Commit] = deque()
        self._last: dict[bytes, int] = {}  # key -> version of the newest remembered commit that set it
        self._cleared: deque[Commit] = deque()  # those of _commits that cleared ranges

    def __len__(self) -> int:
        return len(self._commits)

    def add(self, commit: Commit) -> None:
        """Remembers a commit; versions only grow."""
        assert commit.version > (self._commits[-1].version if self._commits else self.floor)
        self._commits.append(commit)
        for key in commit.keys:
            self._last[key] = commit.version
        if commit.ranges:
            self._cleared.append(commit)

    def conflict(self, snapshot: int, keys: Iterable[bytes], ranges: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """A key among those read that was changed after `snapshot`, or None."""
        assert snapshot >= self.floor
        if not self._commits or self._commits[-1].version <= snapshot:
            return None
        cleared = [span for commit in _since(self._cleared, snapshot) for span in commit.ranges]
        for key in keys:
            if self._last.get(key, 0) > snapshot:
                return key
            if any(begin <= key < end for begin, end in cleared):
                return key
        for begin, end in ranges:
            for commit in _since(self._commits, snapshot):
                for key in commit.keys:
                    if begin <= key < end:
                        return key
            for low, high in cleared:
                if low < end and begin < high:
                    return max(low, begin)
        return None

    def forget_before(self, time: float) -> list[Commit]:
        """Drops commits older than `time`, raises `floor` to the last of them, and returns them."""
        dropped = []
        while self._commits and self._commits[0].time < time:
            commit = self._commits.popleft()
            self.floor = commit.version
            dropped.append(commit)
            for key in commit.keys:
                if self._last.get(key) == commit.version:
                    del self._last[key]
        while self._cleared and self._cleared[0].version <= self.floor:
            self._cleared.popleft()
        return dropped


def _since(commits: deque[Commit], snapshot: int) -> Iterator[Commit]:
    """Those after `snapshot`, newest first."""
    return itertools.takewhile(lambda commit: commit.version > snapshot, reversed(commits))
