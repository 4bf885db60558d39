"""Which tiling a product gets.

A table of measured winners for the shapes that DeepSeek-V3 runs would overfit one card; instead a small cost model
ranks the few families that measurements left standing (docs/kernels/log.md), and the families' limits are checked
by `Tiling.is_valid`. Cost is in tensor-core cycles of a multiprocessor; bytes are turned into cycles.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from threefs.compute_kernels.deep_gemm.fp8_gemm import Tiling
from threefs.compute_kernels.deep_gemm.layout import K_BLOCK, ceil_div

__all__ = ["choose_contiguous", "choose_dense", "choose_masked"]

_SMALL_M = 128
_START_CYCLES = 2500  # launch, barriers, first loads, last stores: about 1.5 microseconds
_SPLIT_CYCLES = 700  # two cluster barriers and the sum through distributed shared memory
_L2_BYTES_A_CYCLE = 36.0  # that one multiprocessor gets when all ask
_DRAM_BYTES_A_CYCLE = 2200.0  # of the whole device
_FLOPS_A_CYCLE = 8192.0


def _large_tilings() -> Iterator[Tiling]:
    for block_n in (112, 128, 136):
        yield Tiling(block_n, math_groups=2, waves=2, stages=4, turns=1)
    for block_n in (128, 144, 160, 176, 192):
        yield Tiling(block_n, math_groups=2, waves=1, stages=5)


def _deepest(tiling_arguments: dict[str, int | bool], k_blocks: int) -> Tiling | None:
    """The most stages that fit; more than the K blocks at hand would only cost shared memory."""
    split, stage_k = int(tiling_arguments["split_k"]), int(tiling_arguments["stage_k"])
    useful = max(ceil_div(k_blocks, split * stage_k), 2)
    for stages in (12, 8, 6, 5, 4, 3, 2):
        tiling = Tiling(stages=stages, **tiling_arguments)  # type: ignore[arg-type]
        if stages <= useful + 1 and tiling.is_valid():
            return tiling
    return None


def _small_tilings(m: int, k_blocks: int) -> Iterator[Tiling]:
    for block_n in (48, 64, 80, 96, 112, 128, 192):
        for split_k in (1, 2, 4):
            for blocks_per_sm in (1, 2) if m <= 64 else (1,):
                arguments: dict[str, int | bool] = {
                    "block_n": block_n,
                    "math_groups": 1 if m <= 64 else 2,
                    "waves": 1,
                    "split_k": split_k,
                    "stage_k": 2 if k_blocks % (2 * split_k) == 0 else 1,
                    "blocks_per_sm": blocks_per_sm,
                    "stream_b": True,
                }
                tiling = _deepest(arguments, k_blocks)
                if tiling is not None:
                    yield tiling


def cost(tiling: Tiling, m: int, n: int, k: int, num_sms: int) -> float:
    """Cycles that the product takes on `num_sms` multiprocessors, roughly."""
    k_blocks = ceil_div(ceil_div(k, K_BLOCK), tiling.split_k)
    blocks = ceil_div(m, tiling.block_m) * ceil_div(n, tiling.block_n) * tiling.split_k
    waves = ceil_div(blocks, num_sms)  # two blocks on one multiprocessor share its units
    tile_flops = 2.0 * tiling.block_m * tiling.block_n * K_BLOCK
    tile_bytes = (tiling.block_m + tiling.block_n) * K_BLOCK
    step = max(tile_flops / _FLOPS_A_CYCLE, tile_bytes / _L2_BYTES_A_CYCLE)
    store = tiling.block_m * tiling.block_n * 2 / _L2_BYTES_A_CYCLE
    on_chip = waves * (k_blocks * step + store)
    memory = (float(m) * k + float(n) * k + 2.0 * m * n) / _DRAM_BYTES_A_CYCLE
    return max(on_chip, memory) + (_SPLIT_CYCLES if tiling.split_k > 1 else 0) + _START_CYCLES


@lru_cache(maxsize=4096)
def choose_dense(m: int, n: int, k: int, num_sms: int) -> Tiling:
    """The tiling of least cost."""
    k_blocks = ceil_div(k, K_BLOCK)
    candidates = list(_small_tilings(m, k_blocks)) if m <= _SMALL_M else list(_large_tilings())
    valid = [tiling for tiling in candidates if tiling.is_valid()]
    assert valid, (m, n, k)
    return min(valid, key=lambda tiling: cost(tiling, m, n, k, num_sms))


@lru_cache(maxsize=1024)
def choose_contiguous(m: int, n: int, k: int, num_sms: int) -> Tiling:
    """As dense, but with tiles of 128 rows: a tile may not reach into the next group."""
    candidates = [tiling for tiling in _large_tilings() if tiling.block_m == 128 and tiling.is_valid()]
    return min(candidates, key=lambda tiling: cost(tiling, m, n, k, num_sms))


@lru_cache(maxsize=1024)
def choose_masked(groups: int, expected_m: int, n: int, k: int, num_sms: int) -> Tiling:
    """By the expected rows of a group: tiles of 64 rows while that is all there is, else of 128."""
    rows = max(expected_m, 1)
    if rows <= 64:
        k_blocks = ceil_div(k, K_BLOCK)
        candidates = [t for t in _small_tilings(64, k_blocks) if t.split_k == 1]
    else:
        candidates = [tiling for tiling in _large_tilings() if tiling.block_m == 128]
    valid = [tiling for tiling in candidates if tiling.is_valid(groups)]
    assert valid, (groups, expected_m, n, k)
    tiles = [ceil_div(rows, tiling.block_m) * tiling.block_m * groups for tiling in valid]
    return min(zip(valid, tiles, strict=True), key=lambda pair: cost(pair[0], pair[1], n, k, num_sms))[0]
