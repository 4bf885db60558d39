"""A device's timeline, thinned to what a screen can show, and as a trace that Perfetto opens.

Used by the HTML report and by `--perfetto`. The rule: thinning joins neighbours of one kind and never drops time
that shows: a joined block says how many kernels it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from threefs.compute_kernels.overlap.analyse import US, Work
from threefs.compute_kernels.overlap.intervals import Set, complement, intersect, subtract, union
from threefs.compute_kernels.overlap.rules import KINDS, function_name

BLOCKS_MAX = 40_000


@dataclass(frozen=True)
class Lane:
    """`blocks` rows are start and length in microseconds from the window's start, kind, name, kernels in it."""

    title: str
    blocks: list[tuple[float, float, int, int, int]]


def summary_sets(work: Work) -> dict[str, Set]:
    """The window cut into parts that add up to it, but for computation and communication, which overlap."""
    compute, communication = work.set_of("compute"), work.set_of("communication")
    anything = work.set_of(*KINDS)
    return {
        "computation": compute,
        "hidden communication": intersect(compute, communication),
        "exposed communication": subtract(communication, compute),
        "idle": complement(anything, *work.window),
    }


def thin(part: Set, work: Work) -> Set:
    """`part` with the gaps closed that no screen can show, if it has more intervals than the page can hold."""
    if part.start.size <= BLOCKS_MAX:
        return part
    resolution = (work.window[1] - work.window[0]) // BLOCKS_MAX * 2
    wider = union(part.start, part.end + resolution)
    return Set(wider.start, wider.end - resolution)


def lanes(work: Work) -> tuple[list[Lane], list[str]]:
    """One lane a stream, busiest first, and the names that blocks refer to."""
    kernels = work.kernels
    names: dict[str, int] = {}
    resolution = (work.window[1] - work.window[0]) / BLOCKS_MAX * 2 if len(kernels) > BLOCKS_MAX else 0.0
    number_of = {
        number: names.setdefault(function_name(work.trace.names.texts[number]), len(names))
        for number in np.unique(kernels.name).tolist()
    }
    result = []
    for stream in np.unique(kernels.stream).tolist():
        rows = np.flatnonzero(kernels.stream == stream)
        blocks: list[tuple[float, float, int, int, int]] = []
        for row in rows.tolist():
            start = (float(kernels.start[row]) - work.window[0]) / US
            length = float(kernels.end[row] - kernels.start[row]) / US
            block = (start, length, int(work.kind[row]), number_of[int(kernels.name[row])], 1)
            if blocks and resolution and _joins(blocks[-1], block, resolution / US):
                first = blocks.pop()
                block = (first[0], start + length - first[0], first[2], first[3], first[4] + 1)
            blocks.append(block)
        result.append(Lane(f"stream {stream}", blocks))
    result.sort(key=lambda lane: -sum(block[1] for block in lane.blocks))
    return result, list(names)


def _joins(one: tuple[float, float, int, int, int], two: tuple[float, float, int, int, int], resolution: float) -> bool:
    return one[2] == two[2] and two[0] - (one[0] + one[1]) < resolution and max(one[1], two[1]) < resolution


def perfetto_trace(work: Work) -> dict[str, Any]:
    """Chrome trace events: the streams with classes as categories, and the summary as tracks above them."""
    events: list[dict[str, Any]] = []

    def track(number: int, title: str) -> None:
        events.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": title}})
        events.append({"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": number, "args": {"sort_index": number}})

    events.append({"ph": "M", "name": "process_name", "pid": 1, "args": {"name": f"device {work.device}"}})
    for number, (title, part) in enumerate(summary_sets(work).items(), start=1):
        track(number, title)
        for start, end in zip(part.start.tolist(), part.end.tolist(), strict=True):
            events.append(_slice(number, title, "summary", start, end))
    streams = np.unique(work.kernels.stream).tolist()
    for stream in streams:
        track(100 + streams.index(stream), f"stream {stream}")
    kernels, texts = work.kernels, work.trace.names.texts
    for row in range(len(kernels)):
        number = 100 + streams.index(int(kernels.stream[row]))
        name = function_name(texts[int(kernels.name[row])])
        event = _slice(number, name, work.label_of[row].kind, int(kernels.start[row]), int(kernels.end[row]))
        event["args"] = {"class": work.label_of[row].label, "blocks": int(kernels.blocks[row])}
        events.append(event)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _slice(track: int, name: str, category: str, start: int, end: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": track,
        "name": name,
        "cat": category,
        "ts": start / US,
        "dur": (end - start) / US,
    }
