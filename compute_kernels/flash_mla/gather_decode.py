"""MLA attention over fetched keys: FP8 caches, dense or sparse, and sparse prefill in bf16.

Formula as in `dense_decode`: O = softmax(scale * q . K^T) . V with V = K[:, :512], over all keys of a request or over
those that a list of indices names for each query position. A sink is one more logit: it takes weight and gives nothing.

An FP8 row is 656 bytes: 512 e4m3 values, four float32 scales (one for each 128 values), 64 bf16 rotary values. So 656
bytes a key instead of 1,152; 2 h (576 + 512) operations a key and query. Load warps widen the values to fp16, to which
the query and the rotary values are turned too: 85 cycles a key were measured, where products of 64 heads take 34. A
query position of a sparse call is a request of its own: its keys are its list. Prefill needs no plan: there are more
positions than multiprocessors.

Limits: head size 576 (prefill also 512); a cache of 2^31 rows, which lie without gaps. With an FP8 cache, keys and
queries must be within fp16's range (65,504), and scales under 6e-5 lose precision.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from threefs.compute_kernels.flash_mla.dense_decode import (
    LOG2_E,
    ROWS,
    VALUES,
    Arguments,
    DecodeShape,
    Results,
    attention_constants,
    launch_combine,
    query_map,
)
from threefs.compute_kernels.flash_mla.plan import ceil_div
from threefs.compute_kernels.jit import KernelSource, Launch, loaded, replay

__all__ = [
    "FP8_ROW",
    "decode_fp8",
    "dequantise_rows",
    "gather_source",
    "prefill",
    "quantise_rows",
    "reference_sparse",
]

FP8_ROW = 656
_PAGED, _SPARSE, _PREFILL = 0, 1, 2
_FILE = Path(__file__).with_name("gather_decode.cu")
_SHARED_BYTES = 232_448
_ROTARY, _GROUP, _E4M3_MAX = 64, 128, 448.0


@lru_cache(maxsize=16)
def gather_source(kind: int, qk_tiles: int = 9, causal: bool = False) -> KernelSource:
    """`kind`: 0 an FP8 cache in order, 1 by indices, 2 bf16 rows by indices (prefill)."""
    operands = torch.bfloat16 if kind == _PREFILL else torch.float16
    constants, shapes = attention_constants(operands, gather=1, qk_tiles=qk_tiles, whole=int(kind == _PREFILL))
    return KernelSource(_FILE, "mla_gather", (*constants, ("SOURCE", kind), ("CAUSAL", int(causal))), shapes)


def quantise_rows(rows: torch.Tensor) -> torch.Tensor:
    """[..., 576] to uint8 [..., 656]: the cache's row format. A group of zeros has a tiny scale."""
    values = rows[..., :VALUES].float().reshape(*rows.shape[:-1], -1, _GROUP)
    scales = values.abs().amax(-1).clamp(min=1e-4) / _E4M3_MAX
    small = (values / scales[..., None]).to(torch.float8_e4m3fn).flatten(-2)
    rotary = rows[..., VALUES:].to(torch.bfloat16).contiguous()
    return torch.cat([small.view(torch.uint8), scales.view(torch.uint8), rotary.view(torch.uint8)], -1)


def dequantise_rows(rows: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """uint8 [..., 656] to [..., 576] as the kernel multiplies them: in fp16, so scale and product are rounded to it."""
    values = rows[..., :VALUES].contiguous().view(torch.float8_e4m3fn).half()
    values = values.reshape(*rows.shape[:-1], -1, _GROUP)
    scales = rows[..., VALUES : VALUES + 16].contiguous().view(torch.float32).half()
    rotary = rows[..., VALUES + 16 :].contiguous().view(torch.bfloat16).half()
    return torch.cat([(values * scales[..., None]).flatten(-2), rotary], -1).to(dtype)


def decode_fp8(
    q: torch.Tensor,
    cache: torch.Tensor,
    table: torch.Tensor | None,
    indices: torch.Tensor | None,
    lengths: torch.Tensor,
    plan: torch.Tensor,
    splits: torch.Tensor,
    scale: float,
    causal: bool,
    sink: torch.Tensor | None,
) -> replay.Work:
    """Attention over an FP8 cache, uint8 [blocks, page, 1, 656], and the combination. Checked already.

    With `indices` [b, s_q, k], q is [b * s_q, 1, h, 576] and `lengths` has b * s_q entries.
    """
    batch, s_q, heads, _ = q.shape
    page, causal = cache.shape[1], causal and s_q > 1
    shape = DecodeShape(batch, s_q, heads, 1, page)
    parts = plan.shape[0]

    def launch(made: replay.Results) -> bool:
        results = Results(*made)
        _folded, map_q = query_map(q, shape)
        sink_at = _address(sink)
        arguments = Arguments(
            *(plan.data_ptr(), splits.data_ptr(), lengths.data_ptr(), _address(table), sink_at),
            *(results.out.data_ptr(), results.lse.data_ptr(), *results.partial_at(scaled=True)),
            *(0, cache.data_ptr(), _address(indices), scale * LOG2_E, batch),
            *(0 if table is None else table.stride(0), page, shape.rows, s_q, heads, 1, int(causal)),
            *(cache.shape[0] * page, 0 if indices is None else indices.shape[-1]),
        )
        kind = _PAGED if indices is None else _SPARSE
        grid = Launch((shape.row_tiles, 1, parts), 384, _SHARED_BYTES)
        loaded(gather_source(kind, causal=causal)).launch(grid, (map_q, arguments), q.device)
        if parts > 1:
            launch_combine(shape, plan, splits, results, sink_at, every=False)
        return True

    return replay.Work(Results.maker(shape, batch + parts, q.dtype, q.device), launch)


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def prefill(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    lengths: torch.Tensor | None,
    scale: float,
    sink: torch.Tensor | None,
    num_sms: int,
) -> replay.Work:
    """Sparse prefill: q [s_q, h, d], kv [s_kv, 1, d], indices [s_q, 1, k], lengths [s_q] or k. Checked already.

    It makes out [s_q, h, 512], the largest logits and the lse [s_q, h].
    """
    s_q, heads, head = q.shape
    shape = DecodeShape(s_q, 1, heads, 1, 1)
    new_out, new_float = replay.maker(q.dtype, q.device), replay.maker(torch.float32, q.device)

    def allocate() -> replay.Results:
        return new_out(s_q, heads, VALUES), new_float(s_q, heads), new_float(s_q, heads)

    def launch(results: replay.Results) -> bool:
        if s_q == 0:
            return False
        out, top, lse = results
        _folded, map_q = query_map(q.view(s_q, 1, heads, head), shape)
        arguments = Arguments(
            *(0, 0, _address(lengths), 0, _address(sink), out.data_ptr(), lse.data_ptr(), 0, 0),
            *(top.data_ptr(), kv.data_ptr(), indices.data_ptr(), scale * LOG2_E, s_q),
            *(0, 1, heads, 1, heads, 1, 0, kv.shape[0], indices.shape[-1]),
        )
        parts = max(min(num_sms // shape.row_tiles, s_q), 1)
        grid = Launch((shape.row_tiles, 1, parts), 384, _SHARED_BYTES)
        loaded(gather_source(_PREFILL, ceil_div(head, ROWS))).launch(grid, (map_q, arguments), q.device)
        return True

    return replay.Work(allocate, launch)


def reference_sparse(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    sink: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """out [n, h, 512], largest logit [n, h] and lse [n, h] of q [n, h, d] over rows of kv [rows, d] in `dtype`."""
    n, heads, _ = q.shape
    out = torch.zeros(n, heads, VALUES, dtype=dtype, device=q.device)
    lse = torch.full((n, heads), torch.inf, dtype=dtype, device=q.device)
    top = torch.full((n, heads), -torch.inf, dtype=dtype, device=q.device)
    for i in range(n):
        at = indices[i, : int(lengths[i])].long()
        at = at[(at >= 0) & (at < kv.shape[0])]
        if len(at) == 0:
            continue
        keys = kv[at].to(dtype)
        scores = q[i].to(dtype) @ keys.T * scale
        lse[i], top[i] = scores.logsumexp(-1), scores.amax(-1)
        weights = (scores - lse[i][:, None]).exp()
        if sink is not None:
            weights = weights / (1 + (sink.to(dtype) - lse[i]).exp())[:, None]
        out[i] = weights @ keys[:, :VALUES]
    return out, top, lse
