"""Time in which a GPU does nothing, and whose fault that is.

Used by `analyse.py`. A gap is launch-bound if the kernel that ends it had not been launched when the gap began: the
CPU was late. Otherwise the kernel was queued and waited for something else (another stream, a peer, a copy).
The rule: the three causes add up to the idle time.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from threefs.compute_kernels.overlap.attribution import NOWHERE, launch_rows
from threefs.compute_kernels.overlap.intervals import Set
from threefs.compute_kernels.overlap.rules import function_name
from threefs.compute_kernels.overlap.trace import Kernels, Trace

LONGEST_SHOWN = 10
BOUNDS_US = (1.0, 10.0, 100.0, 1000.0)  # of the histogram


@dataclass(frozen=True)
class Gap:
    """Times in microseconds."""

    start: float
    length: float
    cause: str
    before: str
    after: str


@dataclass(frozen=True)
class Gaps:
    count: int
    idle: float
    launch_bound: float
    waiting: float
    unknown: float
    histogram: tuple[tuple[str, int, float], ...]  # (range, gaps, their time)
    longest: tuple[Gap, ...]


def find_gaps(trace: Trace, kernels: Kernels, idle: Set) -> Gaps:
    """Classify the `idle` time of one device."""
    length = (idle.end - idle.start) / 1000.0
    following = np.searchsorted(kernels.start, idle.end, side="left")  # the kernel that ends the gap
    has_next = following < len(kernels)
    rows = launch_rows(trace, kernels)
    launch = np.full(length.size, NOWHERE, dtype=np.int64)
    launch[has_next] = rows[following[has_next]]
    known = launch != NOWHERE
    late = np.zeros(length.size, dtype=np.bool_)
    if known.any():
        late[known] = trace.launches.start[launch[known]] >= idle.start[known]
    cause = np.where(~known, "unknown", np.where(late, "launch-bound", "waiting"))
    by_end = np.argsort(kernels.end, kind="stable")
    ends = kernels.end[by_end]

    def text(row: int) -> str:
        return function_name(trace.names.texts[int(kernels.name[row])])

    def gap(index: int) -> Gap:
        before = int(np.searchsorted(ends, idle.start[index], side="right")) - 1
        return Gap(
            start=float(idle.start[index]) / 1000.0,
            length=float(length[index]),
            cause=str(cause[index]),
            before=text(int(by_end[before])) if before >= 0 else "start",
            after=text(int(following[index])) if has_next[index] else "end",
        )

    longest = np.argsort(-length, kind="stable")[:LONGEST_SHOWN]
    return Gaps(
        count=int(length.size),
        idle=float(length.sum()),
        launch_bound=float(length[cause == "launch-bound"].sum()),
        waiting=float(length[cause == "waiting"].sum()),
        unknown=float(length[cause == "unknown"].sum()),
        histogram=_histogram(length),
        longest=tuple(gap(int(index)) for index in longest),
    )


def _histogram(length: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[tuple[str, int, float], ...]:
    edges = (0.0, *BOUNDS_US, float("inf"))
    rows = []
    for low, high in itertools.pairwise(edges):
        mine = length[(length >= low) & (length < high)]
        name = f"< {high:g} us" if low == 0 else f">= {low:g} us" if high == float("inf") else f"{low:g}-{high:g} us"
        rows.append((name, int(mine.size), float(mine.sum())))
    return tuple(rows)
