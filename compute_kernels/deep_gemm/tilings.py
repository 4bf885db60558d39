"""Which tiling a product gets.

Rules that measurements on an H200 left standing (docs/kernels/log.md), not a table of shapes:

* Few rows (m <= 128): reading B bounds the product, so enough blocks must read at once. The narrowest tile that fills
  the device best wins; K is split over a cluster where the columns do not suffice. With more columns than one round of
  blocks takes, two blocks a multiprocessor, one of which reads while the other writes, beat one of all 128 rows.
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
_WIDTHS = (64, 80, 96, 112, 128, 160, 192)  # of tiles of few rows; two blocks a multiprocessor fit up to 160
_SPLIT_K_BLOCKS_MIN = 12  # K blocks that a split must keep, or its fixed cost outweighs it
_SHORT_K_BLOCKS = 4  # all of them in two stages
_LONG_K_BLOCKS = 48  # from here on stages of 512 bytes of a row are 3 % faster than of 256
_CLUSTER4_BLOCKS_MAX = 112
_SHORT_K_MAX = 4096
# (block_n, waves, relative time of an operation at full occupation)
_LARGE = (
    (128, 2, 1.0),
    (192, 1, 1.03),
    (112, 2, 1.08),
    (136, 2, 1.1),
    (128, 1, 1.12),
    (160, 1, 1.12),
    (144, 1, 1.13),
    (176, 1, 1.13),
)
# (block_n, relative time) of tiles of 64 rows, of which two blocks share a multiprocessor
_LOW = ((128, 1.35), (64, 1.6))


def _large_tilings(short_k: bool) -> Iterator[tuple[Tiling, float]]:
    """Output by the copy engine, where whole boxes of 64 columns make a tile.

    Where a tile's K is short its output counts most: room for all of it then is worth more than a fourth stage.
    """
    for block_n, waves, loss in _LARGE:
        if waves == 1:
            boxes = 3 if block_n == 192 else 0
            yield Tiling(block_n, math_groups=2, waves=1, stages=4 if boxes else 5, turns=1, out_boxes=boxes), loss
        else:
            boxes = 0 if block_n != 128 else 4 if short_k else 1
            yield Tiling(block_n, math_groups=2, waves=2, stages=3 if boxes == 4 else 4, turns=1, out_boxes=boxes), loss


def _masked_tilings() -> Iterator[tuple[Tiling, float]]:
    for block_n, waves, loss in _LARGE:
        if waves == 1:
            boxes = 2 if block_n == 128 else 0
            yield Tiling(block_n, math_groups=2, waves=1, stages=5, turns=1, out_boxes=boxes), loss


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
    widths: tuple[int, ...], row_blocks: int, n: int, k_blocks: int, slots: int, split_max: int
) -> tuple[int, int]:
    """(block_n, split_k) with the fewest waves of `slots`, then the most blocks in them, then the narrowest tile.

    Clusters of four blocks that fill a multiprocessor each do not all fit beside each other: 132 took two rounds.
    """
    best, found = (float("inf"), 0, 0), (64, 1)
    for block_n in widths:
        for split_k in (1, 2, 4):
            blocks = row_blocks * ceil_div(n, block_n) * split_k
            limit = min(split_max, _CLUSTER4_BLOCKS_MAX) if split_k == 4 and slots == split_max else split_max
            if split_k > 1 and (blocks > limit or k_blocks < split_k * _SPLIT_K_BLOCKS_MIN):
                continue
            rank = (ceil_div(blocks, slots), -blocks if blocks <= slots else 0, block_n)
            if rank < best:
                best, found = rank, (block_n, split_k)
    return found


def _choose_narrow(row_blocks: int, n: int, k_blocks: int, num_sms: int, groups: int) -> Tiling | None:
    """One block a multiprocessor with the longest stages, where 64 or 32 columns, perhaps split in two, suffice."""
    for split_k in (1,) if groups else (1, 2):
        for block_n in (64, 32):
            blocks = row_blocks * ceil_div(n, block_n) * split_k
            if 3 * num_sms // 4 <= blocks <= num_sms and k_blocks >= (split_k - 1) * 2 * _SPLIT_K_BLOCKS_MIN:
                stage_k = 4 if k_blocks >= _LONG_K_BLOCKS else 2
                return _deepest(
                    k_blocks, groups, block_n=block_n, math_groups=1, split_k=split_k, stage_k=stage_k, blocks_per_sm=1
                )
    return None


def _choose_small(m: int, n: int, k: int, num_sms: int, groups: int = 0) -> Tiling:
    row_blocks = groups or 1
    k_blocks = ceil_div(k, K_BLOCK)
    if m > 64 and n < num_sms * 128:
        block_n, split_k = _fill(_WIDTHS, row_blocks, n, k_blocks, num_sms, num_sms)
        return _deepest(k_blocks, groups, block_n=block_n, math_groups=2, split_k=split_k, stage_k=2, blocks_per_sm=1)
    row_blocks *= ceil_div(m, 64)
    if narrow := _choose_narrow(row_blocks, n, k_blocks, num_sms, groups):
        return narrow
    widths = _WIDTHS[:-1] if m <= 64 else _WIDTHS[:-2]  # so that there are two rounds
    block_n, split_k = _fill(widths, row_blocks, n, k_blocks, 2 * num_sms, num_sms)
    if groups:
        split_k = 1
    stage_k = 1 if split_k > 1 or (m > 64 and k_blocks > _SHORT_K_BLOCKS) else 2
    return _deepest(k_blocks, groups, block_n=block_n, math_groups=1, split_k=split_k, stage_k=stage_k, blocks_per_sm=2)


def _choose_large(candidates: Iterable[tuple[Tiling, float]], m: int, n: int, num_sms: int) -> Tiling:
    return min(candidates, key=lambda pair: cost(pair[0], pair[1], m, n, num_sms))[0]


@lru_cache(maxsize=4096)
def choose_dense(m: int, n: int, k: int, num_sms: int) -> Tiling:
    """The tiling for [m, k] @ [n, k].T."""
    if m <= _SMALL_M:
        return _choose_small(m, n, k, num_sms)
    return _choose_large(_large_tilings(k <= _SHORT_K_MAX), m, n, num_sms)


def _low_tilings() -> Iterator[tuple[Tiling, float]]:
    for block_n, loss in _LOW:
        yield Tiling(block_n, math_groups=1, waves=1, stages=4, blocks_per_sm=2), loss


def _cost_in_groups(tiling: Tiling, loss: float, m: int, n: int, num_sms: int, groups: int) -> float:
    """`cost` where a tile that holds the end of one group and the beginning of the next is worked on twice.

    Which tiles do is known on the device only: counted are every other end of a group, and half a tile for the block
    that meets one.
    """
    if tiling.block_m == 128 or groups == 1:
        return cost(tiling, loss, m, n, num_sms)
    repeated = m + (groups - 1) * tiling.block_m // 2
    return cost(tiling, loss, repeated, n, num_sms) + tiling.block_m * tiling.block_n * loss / 2


@lru_cache(maxsize=1024)
def choose_contiguous(m: int, n: int, num_sms: int, alignment: int = 128, groups: int = 1) -> Tiling:
    """As dense; where groups begin at multiples of 64 rows, tiles of 64: only by halves may a tile hold two groups."""
    if alignment == 64:
        return _choose_large(_low_tilings(), m, n, num_sms)
    return min(_large_tilings(short_k=True), key=lambda pair: _cost_in_groups(pair[0], pair[1], m, n, num_sms, groups))[
        0
    ]


@lru_cache(maxsize=1024)
def choose_masked(groups: int, expected_m: int, n: int, k: int, num_sms: int) -> Tiling:
    """By the expected rows of a group: tiles of 64 rows while that is all there is, else of 128."""
    rows = max(expected_m, 1)
    if rows <= 64:
        return _choose_small(rows, n, k, num_sms, groups)
    padded = ceil_div(rows, 128) * 128 * groups
    return _choose_large(_masked_tilings(), padded, n, num_sms)
