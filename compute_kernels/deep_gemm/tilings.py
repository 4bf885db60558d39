"""Which tiling a product gets.

Rules that measurements on an H200 left standing (docs/kernels/log.md), not a table of shapes:

* Few rows (m <= 128): reading B bounds the product, so enough blocks must read at once. The narrowest tile of 64
  columns or more that fills the device best wins; K is split over a cluster where the columns do not suffice.
* More rows: the tensor cores bound it. Waves x tile area, times what each family was measured to lose against the
  best one per operation, decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from threefs.compute_kernels.deep_gemm.fp8_gemm import Tiling
from threefs.compute_kernels.deep_gemm.layout import K_BLOCK, ceil_div

__all__ = ["choose_contiguous", "choose_dense", "choose_masked", "cost"]

_SMALL_M = 128
_SPLIT_K_BLOCKS_MIN = 12  # K blocks that a split must keep, or its fixed cost outweighs it
# Clusters of four blocks that fill a multiprocessor each do not all fit beside each other: 132 took two rounds.
_CLUSTER4_BLOCKS_MAX = 112
# (block_n, waves, relative time of an operation at full occupation)
_LARGE = (
    (128, 2, 1.0),
    (112, 2, 1.06),
    (136, 2, 1.1),
    (192, 1, 1.06),
    (176, 1, 1.07),
    (160, 1, 1.1),
    (144, 1, 1.13),
    (128, 1, 1.15),
)
# (block_n, relative time) of tiles of 64 rows, of which two blocks share a multiprocessor
_LOW = ((128, 1.35), (64, 1.6))


def _large_tilings() -> Iterator[tuple[Tiling, float]]:
    for block_n, waves, loss in _LARGE:
        if waves == 2:
            yield Tiling(block_n, math_groups=2, waves=2, stages=4, turns=1), loss
        else:
            yield Tiling(block_n, math_groups=2, waves=1, stages=5), loss


def cost(tiling: Tiling, loss: float, m: int, n: int, num_sms: int) -> float:
    """Waves times the area of a tile times the family's loss."""
    waves = ceil_div(ceil_div(m, tiling.block_m) * ceil_div(n, tiling.block_n), num_sms)
    return waves * tiling.block_m * tiling.block_n * loss


def _deepest(k_blocks: int, groups: int = 0, **arguments: int) -> Tiling:
    """The most stages that fit; more than the K blocks at hand would only cost shared memory."""
    for stage_k in range(arguments.pop("stage_k"), 0, -1):
        useful = max(ceil_div(k_blocks, arguments["split_k"] * stage_k), 2)
        for stages in (12, 8, 6, 5, 4, 3, 2):
            tiling = Tiling(stages=stages, stage_k=stage_k, stream_b=True, **arguments)  # type: ignore[arg-type]
            if stages <= useful + 1 and tiling.is_valid(groups):
                return tiling
    raise AssertionError(f"no number of stages fits {arguments}")


def _fill(
    row_blocks: int, n: int, k_blocks: int, num_sms: int, blocks_per_sm: int, cluster4_max: int
) -> tuple[int, int]:
    """(block_n, split_k) with the fewest waves, then the most blocks in them, then the narrowest tile."""
    best, found = (float("inf"), 0, 0), (64, 1)
    slots = num_sms * blocks_per_sm
    for block_n in (64, 80, 96, 112, 128, 192):
        for split_k in (1, 2, 4):
            blocks = row_blocks * ceil_div(n, block_n) * split_k
            limit = min(num_sms, cluster4_max) if split_k == 4 else num_sms
            if split_k > 1 and (blocks > limit or k_blocks < split_k * _SPLIT_K_BLOCKS_MIN):
                continue
            rank = (ceil_div(blocks, slots), -blocks if blocks <= slots else 0, block_n)
            if rank < best:
                best, found = rank, (block_n, split_k)
    return found


def _choose_small(row_blocks: int, m: int, n: int, k: int, num_sms: int, groups: int = 0) -> Tiling:
    k_blocks = ceil_div(k, K_BLOCK)
    if m > 64:
        block_n, split_k = _fill(row_blocks, n, k_blocks, num_sms, 1, _CLUSTER4_BLOCKS_MAX)
        return _deepest(k_blocks, groups, block_n=block_n, math_groups=2, split_k=split_k, stage_k=2, blocks_per_sm=1)
    narrow = row_blocks * ceil_div(n, 64)
    if 3 * num_sms // 4 <= narrow <= num_sms:  # one block of 64 columns a multiprocessor: long stages, no split
        return _deepest(k_blocks, groups, block_n=64, math_groups=1, split_k=1, stage_k=2, blocks_per_sm=1)
    block_n, split_k = _fill(row_blocks, n, k_blocks, num_sms, 2, num_sms)
    if groups:
        split_k = 1
    stage_k = 1 if split_k > 1 else 2
    return _deepest(k_blocks, groups, block_n=block_n, math_groups=1, split_k=split_k, stage_k=stage_k, blocks_per_sm=2)


def _choose_large(candidates: Iterable[tuple[Tiling, float]], m: int, n: int, num_sms: int) -> Tiling:
    return min(candidates, key=lambda pair: cost(pair[0], pair[1], m, n, num_sms))[0]


@lru_cache(maxsize=4096)
def choose_dense(m: int, n: int, k: int, num_sms: int) -> Tiling:
    """The tiling for [m, k] @ [n, k].T."""
    if m <= _SMALL_M:
        return _choose_small(1, m, n, k, num_sms)
    return _choose_large(_large_tilings(), m, n, num_sms)


def _low_tilings() -> Iterator[tuple[Tiling, float]]:
    for block_n, loss in _LOW:
        yield Tiling(block_n, math_groups=1, waves=1, stages=4, blocks_per_sm=2), loss


@lru_cache(maxsize=1024)
def choose_contiguous(m: int, n: int, k: int, num_sms: int, alignment: int = 128) -> Tiling:
    """As dense, but with tiles of `alignment` rows: a tile may not reach into the next group."""
    if alignment == 64:
        return _choose_large(_low_tilings(), m, n, num_sms)
    return _choose_large((pair for pair in _large_tilings() if pair[0].block_m == 128), m, n, num_sms)


@lru_cache(maxsize=1024)
def choose_masked(groups: int, expected_m: int, n: int, k: int, num_sms: int) -> Tiling:
    """By the expected rows of a group: tiles of 64 rows while that is all there is, else of 128."""
    rows = max(expected_m, 1)
    if rows <= 64:
        return _choose_small(groups, rows, n, k, num_sms, groups)
    padded = ceil_div(rows, 128) * 128 * groups
    return _choose_large((pair for pair in _large_tilings() if pair[0].block_m == 128), padded, n, num_sms)
