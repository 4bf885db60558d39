"""How long each rank of a pipeline waits for the others, from one trace a rank.

Called by the command when it is given several traces. The rule: a rank is in its bubble when it neither computes nor
copies nor takes part in a collective. Point-to-point messages are the pipeline's own: their kernels spin until the
peer is there, so their time is waiting unless computation hides it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from threefs.compute_kernels.overlap.analyse import US, Work
from threefs.compute_kernels.overlap.intervals import Set, complement, union
from threefs.compute_kernels.overlap.rules import KINDS
from threefs.compute_kernels.overlap.trace import UNKNOWN


@dataclass(frozen=True)
class RankBubble:
    """Times in microseconds; `share` is of the common window."""

    path: str
    rank: int | None
    busy: float
    bubble: float
    share: float


@dataclass(frozen=True)
class Bubbles:
    span: float
    aligned: bool  # the traces share a clock, so the window runs from the first rank's start to the last one's end
    ranks: tuple[RankBubble, ...]


def find_bubbles(works: Sequence[Work]) -> Bubbles:
    """Bubble of each rank in the window that all the ranks' windows span together."""
    aligned = all(work.trace.base_ns for work in works)
    bases = [work.trace.base_ns if aligned else -work.window[0] for work in works]
    begin = min(work.window[0] + base for work, base in zip(works, bases, strict=True))
    end = max(work.window[1] + base for work, base in zip(works, bases, strict=True))
    rows = []
    for work, base in zip(works, bases, strict=True):
        bubble = complement(_busy(work), begin - base, end - base).total
        rows.append(
            RankBubble(
                path=work.trace.path,
                rank=work.trace.rank,
                busy=(end - begin - bubble) / US,
                bubble=bubble / US,
                share=bubble / (end - begin),
            )
        )
    return Bubbles((end - begin) / US, aligned, tuple(rows))


def _busy(work: Work) -> Set:
    kernels, texts = work.kernels, work.trace.names.texts
    pairwise = [number for number in np.unique(kernels.name).tolist() if re.search(r"SendRecv", texts[number])]
    collective = np.array(
        [number != UNKNOWN and "all_to_all" in texts[number] for number in kernels.collective.tolist()], dtype=np.bool_
    )
    is_message = np.isin(kernels.name, pairwise) & ~collective & (work.kind == KINDS.index("communication"))
    return union(kernels.start[~is_message], kernels.end[~is_message])
