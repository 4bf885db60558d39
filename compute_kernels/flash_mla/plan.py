"""The split plan of decode: which part works on which key blocks of which request.

A part is what one block of the grid does. `plan.cu` cuts the batch into parts of nearly equal cost, `plan_fixed.cu`
cuts requests at fixed places, whatever else is in the batch; both run on the device, where the lengths are. Their
twins in plain Python are what tests compare them with.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

import torch

from threefs.compute_kernels.jit import KernelSource, Launch, loaded, replay
from threefs.compute_kernels.jit.driver import Argument

__all__ = ["fixed_plan_source", "make_plan", "plan_source", "reference_fixed_plan", "reference_plan"]

KEYS = 64  # of a block
PLAN_ROW = 8  # int32 values a part
OVERHEAD_BLOCKS = 3  # what starting and ending a request costs, in blocks of 64 keys
PIECE_BLOCKS = 32  # of the batch-invariant mode: 2,048 keys
SLACK, WHOLE_MAX = 8, 512  # see plan.cu
BATCH_MAX = 40_000  # running sums of the plan stay in shared memory
_FOLDER = Path(__file__).parent


@lru_cache(maxsize=8)
def plan_source(overhead: int = OVERHEAD_BLOCKS) -> KernelSource:
    return KernelSource(_FOLDER / "plan.cu", "mla_plan", (("OVERHEAD", overhead),))


@lru_cache(maxsize=8)
def fixed_plan_source(piece: int = PIECE_BLOCKS) -> KernelSource:
    return KernelSource(_FOLDER / "plan_fixed.cu", "mla_plan_fixed", (("PIECE", piece),))


def ceil_div(x: int, y: int) -> int:
    return -(-x // y)


def reference_plan(
    lengths: list[int], parts: int, overhead: int = OVERHEAD_BLOCKS
) -> tuple[list[list[int]], list[int]]:
    """`plan.cu` in plain Python: the rows without their padding, and the running sum of splits."""
    blocks = [ceil_div(length, KEYS) for length in lengths]
    units = [overhead + max(count, 1) for count in blocks]
    ends = list(accumulate(units))
    firsts = [end - unit + overhead for end, unit in zip(ends, units, strict=True)]
    quota = ceil_div(ceil_div(ends[-1], parts), 2) * 2
    if len(lengths) <= WHOLE_MAX and (starts := _pack_whole(units, parts, quota + SLACK)) is not None:
        bounds = [*starts, len(lengths)]
        rows = [[a, b - 1, 0, blocks[b - 1], 0] for a, b in pairwise(bounds)]
        return rows + [[len(lengths), -1, 0, 0, 0]] * (parts - len(rows)), list(range(len(lengths) + 1))
    if len(lengths) <= parts and (size := _piece_size(blocks, parts)) <= quota:
        rows, splits = [], [0]
        for r, count in enumerate(blocks):
            pieces = max(-(-count // size), 1)
            rows += [[r, r, i * size, min((i + 1) * size, count), i] for i in range(pieces)]
            splits.append(splits[-1] + pieces)
        return rows + [[len(lengths), -1, 0, 0, 0]] * (parts - len(rows)), splits
    splits = [(end - 1) // quota - first // quota + 1 for first, end in zip(firsts, ends, strict=True)]
    rows = []
    for part in range(parts):
        begin, end = part * quota, (part + 1) * quota
        first = next((r for r, last in enumerate(ends) if last > begin), len(lengths))
        last = max((r for r, place in enumerate(firsts) if place < end), default=-1)
        if first > last:
            rows.append([first, max(last, first - 1), 0, 0, 0])
            continue
        start = max(begin - firsts[first], 0)
        rows.append(
            [first, last, start, min(end - firsts[last], blocks[last]), part - min(firsts[first] // quota, part)]
        )
    return rows, list(accumulate(splits, initial=0))


def _pack_whole(units: list[int], parts: int, limit: int) -> list[int] | None:
    """First requests of the parts if whole requests fit into `parts` parts of at most `limit` units."""
    starts, held = [0], 0
    for request, unit in enumerate(units):
        if held + unit > limit:
            if unit > limit or len(starts) == parts:
                return None
            starts.append(request)
            held = 0
        held += unit
    return starts


def _piece_size(blocks: list[int], parts: int) -> int:
    """Least even size of a piece, in blocks, with which one piece a part is enough; plan.cu ends at 2,048."""
    for size in range(2, 2050, 2):
        if sum(max(-(-count // size), 1) for count in blocks) <= parts:
            return size
    return 2**32


def make_plan(
    lengths: torch.Tensor, parts: int, overhead: int = OVERHEAD_BLOCKS, *, fixed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queue the plan: int32 [parts, 8] and the running sum of splits, int32 [batch + 1]. `fixed`: see plan_fixed.cu."""
    batch = lengths.shape[0]

    def launch(results: replay.Results) -> bool:
        arguments: list[Argument] = [ctypes.c_uint64(tensor.data_ptr()) for tensor in (lengths, *results)]
        arguments += [ctypes.c_int(batch), ctypes.c_int(parts)]
        source = fixed_plan_source() if fixed else plan_source(overhead)
        loaded(source).launch(Launch((1, 1, 1), 1024, (batch + parts + 1) * 4), arguments, lengths.device)
        return True

    def prepare() -> replay.Work:
        new = replay.maker(torch.int32, lengths.device)
        return replay.Work(lambda: (new(parts, PLAN_ROW), new(batch + 1)), launch)

    plan, splits = replay.run_allocating(("plan", parts, overhead, fixed), (lengths,), prepare)
    return plan, splits


def reference_fixed_plan(
    lengths: list[int], parts: int, piece: int = PIECE_BLOCKS
) -> tuple[list[list[int]], list[int]]:
    """`plan_fixed.cu` in plain Python."""
    blocks = [ceil_div(length, KEYS) for length in lengths]
    firsts = list(accumulate((max(ceil_div(count, piece), 1) for count in blocks), initial=0))
    rows = []
    for part in range(parts):
        begin, end = firsts[-1] * part // parts, firsts[-1] * (part + 1) // parts
        if begin == end:
            rows.append([len(lengths), -1, 0, 0, 0])
            continue
        first, last = bisect_right(firsts, begin) - 1, bisect_right(firsts, end - 1) - 1
        stop = min((end - firsts[last]) * piece, blocks[last])
        rows.append([first, last, (begin - firsts[first]) * piece, stop, 0])
    return rows, firsts
