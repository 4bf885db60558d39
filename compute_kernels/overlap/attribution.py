"""Which annotation a kernel belongs to.

Used by `analyse.py` for layers and windows. A kernel belongs to the innermost annotation open when it was launched:
on the launching thread if it has one (a backward pass launches from autograd's own thread, whose caller holds the
annotation), else on any thread. Without a recorded launch, to the GPU annotation around it. The rule: annotations
on one thread nest.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from threefs.compute_kernels.overlap.errors import TraceError
from threefs.compute_kernels.overlap.trace import UNKNOWN, Ints, Kernels, Spans, Trace

NOWHERE = -1


def launch_rows(trace: Trace, kernels: Kernels) -> Ints:
    """For each kernel, the row of its launch in `trace.launches`, or NOWHERE."""
    if not len(trace.launches):
        return np.full(len(kernels), NOWHERE, dtype=np.int64)
    order = np.argsort(trace.launches.name, kind="stable")
    known = trace.launches.name[order]
    at = np.minimum(np.searchsorted(known, kernels.correlation), known.size - 1)
    found = (known[at] == kernels.correlation) & (kernels.correlation != UNKNOWN)
    result: Ints = np.where(found, order[at], NOWHERE)
    return result


def layers_of(trace: Trace, kernels: Kernels, pattern: str, *, strict: bool = False) -> list[str]:
    """Each kernel's innermost annotation that matches; else, unless `strict`, its innermost of any name; else ""."""
    matching = _innermost(trace, kernels, pattern)
    names = trace.names.texts
    if strict:
        return [names[number] if number != NOWHERE else "" for number in matching.tolist()]
    best = np.where(matching != NOWHERE, matching, _innermost(trace, kernels, r"^(?!nccl:)"))
    return [names[number] if number != NOWHERE else "" for number in best.tolist()]


def window_of(trace: Trace, kernels: Kernels, pattern: str | None) -> tuple[int, int]:
    """From the first to the last moment of the annotations that match, or of the kernels without a pattern.

    Work on a GPU goes on after the annotation on the CPU has closed: the window is that of the kernels launched
    inside, and only without recorded launches the annotation's own.
    """
    if pattern is None:
        return int(kernels.start.min()), int(kernels.end.max())
    inside = _innermost(trace, kernels, pattern) != NOWHERE
    if inside.any():
        return int(kernels.start[inside].min()), int(kernels.end[inside].max())
    known = sorted({trace.names.texts[number] for number in trace.annotations.name.tolist()})[:8]
    raise TraceError(f"{trace.path}: no kernel belongs to an annotation like {pattern!r}; there are {known}")


def _innermost(trace: Trace, kernels: Kernels, pattern: str) -> Ints:
    """For each kernel the name of the innermost annotation that matches, or NOWHERE."""
    result = np.full(len(kernels), NOWHERE, dtype=np.int64)
    cpu = _matching(trace, trace.annotations, pattern)
    rows = launch_rows(trace, kernels)
    launched = np.flatnonzero(rows != NOWHERE)
    if len(cpu) and launched.size:
        time, thread = trace.launches.start[rows[launched]], trace.launches.track[rows[launched]]
        anywhere = _open_at(cpu, time)
        for track in np.unique(thread):
            mine = thread == track
            own = _open_at(_on_track(cpu, int(track)), time[mine])
            result[launched[mine]] = np.where(own != NOWHERE, own, anywhere[mine])
    gpu = _matching(trace, trace.gpu_annotations, pattern)
    left = np.flatnonzero(rows == NOWHERE)
    if len(gpu) and left.size:
        track_of = kernels.device[left] << 32 | kernels.stream[left]
        for track in np.unique(track_of):
            mine = left[track_of == track]
            result[mine] = _open_at(_on_track(gpu, int(track)), kernels.start[mine])
    return result


def _matching(trace: Trace, spans: Spans, pattern: str) -> Spans:
    try:
        wanted = [number for number, text in enumerate(trace.names.texts) if re.search(pattern, text)]
    except re.error as exc:
        raise TraceError(f"{pattern!r} is no regular expression: {exc}") from exc
    return _take(spans, np.isin(spans.name, wanted))


def _on_track(spans: Spans, track: int) -> Spans:
    return _take(spans, spans.track == track)


def _take(spans: Spans, rows: npt.NDArray[np.bool_]) -> Spans:
    return Spans(spans.start[rows], spans.end[rows], spans.track[rows], spans.name[rows])


def _open_at(spans: Spans, time: Ints) -> Ints:
    """The name of the span opened last among those open at each time, or NOWHERE."""
    edges: list[int] = []
    innermost: list[int] = []
    stack: list[tuple[int, int]] = []  # (end, name)

    def close_until(moment: int) -> None:
        while stack and stack[-1][0] <= moment:
            end, _ = stack.pop()
            edges.append(end)
            while stack and stack[-1][0] <= end:
                stack.pop()
            innermost.append(stack[-1][1] if stack else NOWHERE)

    for start, end, name in zip(spans.start.tolist(), spans.end.tolist(), spans.name.tolist(), strict=True):
        close_until(start)
        edges.append(start)
        innermost.append(name)
        stack.append((end, name))
    close_until(2**63 - 1)
    if not edges:
        return np.full(time.shape, NOWHERE, dtype=np.int64)
    at = np.searchsorted(np.array(edges, dtype=np.int64), time, side="right") - 1
    result: Ints = np.where(at >= 0, np.array(innermost, dtype=np.int64)[at], NOWHERE)
    return result
