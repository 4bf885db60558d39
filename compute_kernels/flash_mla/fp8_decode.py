"""MLA decode over a dense FP8 cache that is never widened: both products are multiplied in e4m3.

Formula as in `dense_decode`. A row of the cache is scale * (512 e4m3 values, 64 bf16 rotary values) with one float32
scale a key: 644 bytes a key instead of 1,152. A page holds its rows and after them its scales, as the paged cache of
DeepGEMM's logits does: page x 640 bytes, then page x 4. `quantise_pages` takes powers of two for scales, so that the
rotary values stay exact.

A query is the sum of two e4m3 values, exactly; a weight likewise, as good as bf16. So a key costs 2 h (576 + 512)
operations at half of the FP8 rate, which is bf16's, and no conversion. Heads are the columns of both products, in tiles
of 16, 32 or 64, so few heads are not padded to 64 rows:

    rows (s_q h_q)   tile   stages of 64 keys   shared memory
    up to 16           16          4                188 KB
    up to 32           32          4                217 KB
    more               64          3                219 KB, more tiles of 64 read the cache again

Limits: one kv head; pages a power of two from 16; a key's scale positive and finite. Error: the tensor cores add e4m3
products with about 14 bits, so logits are off by some 2^-13 of the sum of their terms' sizes.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch

from threefs.compute_kernels.flash_mla.dense_decode import (
    LOG2_E,
    VALUES,
    Arguments,
    DecodeShape,
    Results,
    launch_combine,
    slots_of,
)
from threefs.compute_kernels.flash_mla.plan import KEYS, PIECE_BLOCKS
from threefs.compute_kernels.jit import KernelSource, Launch, Wgmma, loaded, replay, tensor_map

__all__ = ["FP8_KEY", "decode_fp8_dense", "dequantise_pages", "fp8_decode_source", "quantise_pages"]

FP8_KEY = 644  # bytes of a key: its row, and its scale at the end of the page
_ROW = 640
_STAGES = {16: 4, 32: 4, 64: 3}
_FILE = Path(__file__).with_name("fp8_decode.cu")


@lru_cache(maxsize=32)
def fp8_decode_source(tile: int, box: int, piece: int = 0) -> KernelSource:
    """`tile`: heads of a tile, 16, 32 or 64; `box`: keys that a copy brings."""
    constants = (("N", tile), ("BOX", box), ("STAGES", _STAGES[tile]), ("PIECE", piece), ("WHOLE", 0))
    heads = min(tile, 32)  # of one product
    shapes = (Wgmma("e4m3", 2 * heads), Wgmma("bf16", heads), Wgmma("e4m3", 2 * heads, a_registers=True))
    return KernelSource(_FILE, "mla_fp8_decode", constants, shapes)


def shared_bytes(tile: int) -> int:
    """`Shared` of fp8_decode.cu."""
    query, weights, stages = 4 * 2 * tile * 128 + tile * 128, 2 * tile * 128, _STAGES[tile]
    columns = tile // 2 * 16 + tile * 4 + 8 * tile * 4 + tile * 4
    used = query + weights + stages * (KEYS * _ROW + KEYS * 4) + columns + 2 * stages * 8
    return -(-used // 1024) * 1024


def quantise_pages(rows: torch.Tensor) -> torch.Tensor:
    """[blocks, page, 1, 576] to uint8 [blocks, page, 1, 644]: the cache's format. A row's scale is a power of two."""
    blocks, page, heads, _ = rows.shape
    top = rows[..., :VALUES].float().abs().amax(-1).clamp(min=2.0**-100)
    scales = torch.exp2(torch.ceil(torch.log2(top / 448.0)))
    scaled = rows.float() / scales[..., None]
    small = scaled[..., :VALUES].to(torch.float8_e4m3fn).view(torch.uint8)
    rotary = scaled[..., VALUES:].to(torch.bfloat16).contiguous().view(torch.uint8)
    packed = torch.cat([small, rotary], -1).reshape(blocks, -1)
    tail = scales.float().contiguous().view(torch.uint8).reshape(blocks, -1)
    return torch.cat([packed, tail], -1).reshape(blocks, page, heads, FP8_KEY)


def dequantise_pages(cache: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """uint8 [blocks, page, 1, 644] to [blocks, page, 1, 576]: what the kernel multiplies."""
    blocks, page, heads, _ = cache.shape
    flat = cache.reshape(blocks, -1)
    rows = flat[:, : page * _ROW].reshape(blocks, page, heads, _ROW)
    scales = flat[:, page * _ROW :].contiguous().view(torch.float32).reshape(blocks, page, heads, 1)
    values = rows[..., :VALUES].contiguous().view(torch.float8_e4m3fn).to(dtype)
    rotary = rows[..., VALUES:].contiguous().view(torch.bfloat16).to(dtype)
    return torch.cat([values, rotary], -1) * scales.to(dtype)


def decode_fp8_dense(
    q: torch.Tensor,
    cache: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    plan: torch.Tensor,
    splits: torch.Tensor,
    scale: float,
    causal: bool,
    sink: torch.Tensor | None,
    fixed: bool = False,
) -> replay.Work:
    """Attention over a cache of `quantise_pages`, and the combination. Checked already."""
    batch, s_q, heads, _ = q.shape
    page = cache.shape[1]
    shape = DecodeShape(batch, s_q, heads, 1, page)
    parts = plan.shape[0]
    slots = slots_of(shape, parts, table.shape[1] * page, fixed)
    tile = next(n for n in (16, 32, 64) if n >= min(shape.rows, 64))
    box = min(page, KEYS)

    def launch(made: replay.Results) -> bool:
        results = Results(*made)
        map_k = tensor_map(
            cache,
            (128, page, _ROW // 128, cache.shape[0]),
            (_ROW, 128, page * FP8_KEY),
            (128, box, 5 if box == KEYS else 1, 1),
        )
        sink_at = 0 if sink is None else sink.data_ptr()
        arguments = Arguments(
            *(tensor.data_ptr() for tensor in (plan, splits, lengths, table)), sink_at,
            results.out.data_ptr(), results.lse.data_ptr(), *results.partial_at(scaled=False), 0, cache.data_ptr(), 0,
            scale * LOG2_E, batch,
            table.stride(0), page, shape.rows, s_q, heads, 1, int(causal and s_q > 1), 0, 0,
        )  # fmt: skip
        grid = Launch((shape.row_tiles, 1, parts), 384, shared_bytes(tile))
        source = fp8_decode_source(tile, box, PIECE_BLOCKS if fixed else 0)
        loaded(source).launch(grid, (map_k, ctypes.c_uint64(q.data_ptr()), arguments), q.device)
        if parts > 1 or fixed:
            launch_combine(shape, plan, splits, results, sink_at, every=fixed, scaled=False)
        return True

    return replay.Work(Results.maker(shape, slots, q.dtype, q.device, scaled=False), launch)
