"""What the step would take if communication took k times as long.

Called by the command and by users. The rule, which is the whole model: every order seen in the trace is kept. A
kernel that began after another had ended still does, as long after it as it did. So k = 1 gives the trace itself;
a smaller k gives a time that is surely reachable only in part, a larger one a time that cannot be exceeded by the
same order of work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from threefs.compute_kernels.overlap.analyse import US, Work
from threefs.compute_kernels.overlap.errors import TraceError
from threefs.compute_kernels.overlap.intervals import intersect, subtract, union
from threefs.compute_kernels.overlap.rules import KINDS


@dataclass(frozen=True)
class WhatIf:
    """Times in microseconds."""

    factor: float
    span: float
    communication: float
    overlap: float
    exposed: float


def what_if(work: Work, factor: float) -> WhatIf:
    """Replay the window with communication `factor` times as long."""
    if not factor >= 0:
        raise TraceError(f"what-if: the factor must be 0 or more, got {factor}")
    kernels = work.kernels
    is_communication = work.kind == KINDS.index("communication")
    duration = kernels.end - kernels.start
    scaled = np.where(is_communication, np.rint(duration * factor).astype(np.int64), duration)
    start, end = _replay(kernels.start, kernels.end, scaled)
    is_compute = work.kind == KINDS.index("compute")
    compute = union(start[is_compute], end[is_compute])
    communication = union(start[is_communication], end[is_communication])
    return WhatIf(
        factor=factor,
        span=float(end.max() - start.min()) / US,
        communication=communication.total / US,
        overlap=intersect(compute, communication).total / US,
        exposed=subtract(communication, compute).total / US,
    )


def _replay(
    start: np.ndarray[tuple[int], np.dtype[np.int64]],
    end: np.ndarray[tuple[int], np.dtype[np.int64]],
    duration: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """New starts and ends. A kernel waits for all that had ended when it began, and keeps its lag to the last."""
    begins, lengths = start.tolist(), duration.tolist()
    by_end = np.argsort(end, kind="stable").tolist()
    ends = end.tolist()
    new_start, new_end = [0] * len(begins), [0] * len(begins)
    ended = 0  # how many of `by_end` have ended by now
    last_end = new_last_end = begins[0] if begins else 0
    for row, begin in enumerate(begins):
        while ends[by_end[ended]] <= begin and by_end[ended] < row:
            done = by_end[ended]
            last_end = ends[done]
            new_last_end = max(new_last_end, new_end[done])
            ended += 1
        new_start[row] = new_last_end + (begin - last_end)
        new_end[row] = new_start[row] + lengths[row]
    return np.array(new_start, dtype=np.int64), np.array(new_end, dtype=np.int64)
