"""Arithmetic on sets of time: merged intervals, their intersections, and integrals over them.

Used by every analysis. The rule: a `Set` is sorted, its intervals are not empty and do not touch, so every total is
a plain sum and no time counts twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Set(NamedTuple):
    start: Ints
    end: Ints

    @property
    def total(self) -> int:
        return int((self.end - self.start).sum())


def union(start: Ints, end: Ints) -> Set:
    """The time covered by any of the intervals, which may overlap and come in any order."""
    keep = end > start
    start, end = start[keep], end[keep]
    if not start.size:
        return Set(start, end)
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    opens = np.concatenate([[True], start[1:] > reach[:-1]])
    closes = np.concatenate([opens[1:], [True]])
    return Set(start[opens], reach[closes])


def complement(covered: Set, start: int, end: int) -> Set:
    """The parts of [start, end) outside `covered`."""
    inside = clip(covered, start, end)
    begins = np.concatenate([[start], inside.end])
    ends = np.concatenate([inside.start, [end]])
    keep = ends > begins
    return Set(begins[keep], ends[keep])


def clip(covered: Set, start: int, end: int) -> Set:
    begins, ends = np.clip(covered.start, start, end), np.clip(covered.end, start, end)
    keep = ends > begins
    return Set(begins[keep], ends[keep])


def intersect(one: Set, two: Set) -> Set:
    if not one.start.size or not two.start.size:
        return Set(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    start, end = int(min(one.start[0], two.start[0])), int(max(one.end[-1], two.end[-1]))
    outside_one, outside_two = complement(one, start, end), complement(two, start, end)
    either = union(
        np.concatenate([outside_one.start, outside_two.start]), np.concatenate([outside_one.end, outside_two.end])
    )
    return complement(either, start, end)


def subtract(one: Set, two: Set) -> Set:
    if not one.start.size:
        return one
    return intersect(one, complement(two, int(one.start[0]), int(one.end[-1])))


def covered_before(covered: Set, time: Ints) -> Ints:
    """How much of `covered` lies before each time; the difference of two gives the cover between them."""
    if not covered.start.size:
        return np.zeros(time.shape, dtype=np.int64)
    sums = np.concatenate([[0], np.cumsum(covered.end - covered.start)])
    index = np.searchsorted(covered.start, time, side="right")
    last = np.maximum(index - 1, 0)
    partial = np.clip(time, covered.start[last], covered.end[last]) - covered.start[last]
    result: Ints = np.where(index > 0, sums[last] + partial, 0)
    return result


def shares(start: Ints, end: Ints, covered: Set) -> Floats:
    """`covered`'s time inside each interval, split evenly between intervals that run at once.

    The shares add up to the part of `covered` that the intervals cover together.
    """
    if not start.size or not covered.start.size:
        return np.zeros(start.shape)
    edges = np.unique(np.concatenate([start, end, covered.start, covered.end]))
    running = np.zeros(edges.size, dtype=np.int64)
    np.add.at(running, np.searchsorted(edges, start), 1)
    np.add.at(running, np.searchsorted(edges, end), -1)
    active = np.cumsum(running)[:-1]
    inside = np.diff(covered_before(covered, edges))
    each = np.where(active > 0, inside / np.maximum(active, 1), 0.0)
    integral = np.concatenate([[0.0], np.cumsum(each)])
    result: Floats = integral[np.searchsorted(edges, end)] - integral[np.searchsorted(edges, start)]
    return result
