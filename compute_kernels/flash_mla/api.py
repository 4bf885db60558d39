"""The public functions: check, plan, launch. Nothing here waits for the device.

Both generations of FlashMLA's interface work. The first release's: `get_mla_metadata(lengths, rows, kv_heads)` plans
at once and returns two tensors. The current one: `get_mla_metadata()` returns an object that plans at its first use
and must be made anew when lengths change. lse is the natural logarithm; a row that sees no key has out = 0, lse = +inf.
"""

from __future__ import annotations

from typing import overload

import torch

from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.flash_mla.checks import (
    FlashMLASchedMeta,
    check_call,
    check_lengths,
    check_plan,
    expect,
    sms_of,
)
from threefs.compute_kernels.flash_mla.dense_decode import HEAD, ROWS, decode
from threefs.compute_kernels.flash_mla.fp8_api import Fp8Call, fp8_attention
from threefs.compute_kernels.flash_mla.plan import make_plan
from threefs.compute_kernels.jit import replay

__all__ = ["FlashMLASchedMeta", "flash_mla_with_kvcache", "get_mla_metadata"]


@overload
def get_mla_metadata(
    *, batch_invariant: bool = False, fused_combine: bool = False
) -> tuple[FlashMLASchedMeta, None]: ...
@overload
def get_mla_metadata(
    cache_seqlens: torch.Tensor, num_heads_per_head_k: int, num_heads_k: int
) -> tuple[torch.Tensor, torch.Tensor]: ...
def get_mla_metadata(
    cache_seqlens: torch.Tensor | None = None,
    num_heads_per_head_k: int | None = None,
    num_heads_k: int | None = None,
    *,
    batch_invariant: bool = False,
    fused_combine: bool = False,
) -> tuple[FlashMLASchedMeta, None] | tuple[torch.Tensor, torch.Tensor]:
    """The plan, int32 (parts, 8), and the running sum of splits, int32 (b + 1,); without arguments, a lazy object.

    `num_heads_per_head_k` is s_q * h_q // h_kv. Queued on the current stream; graph-safe. Two options, not both, go
    with the lazy object and a bf16 or fp16 cache: `batch_invariant` makes a request's bits those it has alone,
    `fused_combine` saves the second launch of a call.
    """
    if cache_seqlens is None:
        expect(not (batch_invariant and fused_combine), lambda: "batch_invariant and fused_combine exclude each other")
        return FlashMLASchedMeta(batch_invariant=batch_invariant, fused_combine=fused_combine), None
    for name, given in (("batch_invariant", batch_invariant), ("fused_combine", fused_combine)):
        expect(not given, lambda name=name: f"{name} needs the lazy object: call get_mla_metadata() without lengths")  # type: ignore[misc]
    check_lengths(cache_seqlens)
    if num_heads_per_head_k is None or num_heads_k is None or num_heads_per_head_k < 1 or num_heads_k < 1:
        raise InvalidInput(
            f"num_heads_per_head_k is {num_heads_per_head_k} and num_heads_k is {num_heads_k}; both must be 1 or more"
        )
    parts = max(sms_of(cache_seqlens.device) // num_heads_k // -(-num_heads_per_head_k // ROWS), 1)
    return make_plan(cache_seqlens, parts)


def flash_mla_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    block_table: torch.Tensor | None,
    cache_seqlens: torch.Tensor | None,
    head_dim_v: int,
    tile_scheduler_metadata: torch.Tensor | FlashMLASchedMeta,
    num_splits: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: torch.Tensor | None = None,
    attn_sink: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (b, s_q, h_q, 576) over the pages of k_cache (blocks, page, h_kv, 576).

    Returns out (b, s_q, h_q, 512) in q's dtype and lse (b, h_q, s_q) float32, natural log. The scale defaults to
    576 ** -0.5. `causal` lets the last query position see all keys. Entries of `block_table` past a request's length,
    and what the cache holds there, have no influence; not even NaN.

    With `is_fp8_kvcache` the cache is bytes, q is bf16 and the plan is the lazy object. (blocks, page, 1, 644) as
    `quantise_pages` makes it is the fast format of dense calls (see `fp8_decode`); (blocks, page, 1, 656) as
    `quantise_rows` does is the original's for sparse ones (see `gather_decode`). With `indices` int32 (b, s_q, k) as
    well, query positions see the cache rows that their lists name (page_index * page + offset; -1 is skipped), of which
    the first `topk_length` (b,) count; then the table and the lengths are not used. `attn_sink` float32 (h_q,) scales
    out by exp(lse) / (exp(lse) + exp(sink)); FP8 caches only.
    """
    scale = HEAD**-0.5 if softmax_scale is None else softmax_scale
    expect(0.0 < scale < float("inf"), lambda: f"softmax_scale is {scale}; it must be positive and finite")
    if is_fp8_kvcache:
        expect(num_splits is None, lambda: "num_splits must be None with a lazy plan: the plan holds it")
        if not isinstance(tile_scheduler_metadata, FlashMLASchedMeta):
            raise InvalidInput("an FP8 cache needs the lazy plan: call get_mla_metadata() without arguments")
        arguments = (q, k_cache, block_table, cache_seqlens, head_dim_v, scale, causal, indices, attn_sink, topk_length)
        return fp8_attention(Fp8Call(*arguments), tile_scheduler_metadata)
    for name, tensor in (("indices", indices), ("attn_sink", attn_sink), ("topk_length", topk_length)):
        expect(tensor is None, lambda name=name: f"{name} is given; it needs is_fp8_kvcache=True")  # type: ignore[misc]
    if block_table is None or cache_seqlens is None:
        raise InvalidInput("block_table and cache_seqlens are needed: only a call with indices goes without them")
    meta = tile_scheduler_metadata
    if not isinstance(meta, FlashMLASchedMeta):
        if num_splits is None:
            raise InvalidInput("num_splits is None; pass both tensors that get_mla_metadata returned")
        fixed, fused, plan, splits, made_for = False, False, meta, num_splits, None
    else:
        expect(num_splits is None, lambda: "num_splits must be None with a lazy plan: the plan holds it")
        fixed, fused = meta.batch_invariant, meta.fused_combine
        if meta.plan is not None and meta.splits is not None:
            plan, splits = meta.plan, meta.splits
        else:  # queued here, since what `prepare` queues is repeated
            shape = check_call(q, k_cache, block_table, cache_seqlens, head_dim_v)
            plan, splits = meta.ready(cache_seqlens, shape, sms_of(q.device))
        made_for = meta.shape

    def prepare() -> replay.Work:
        shape = check_call(q, k_cache, block_table, cache_seqlens, head_dim_v)
        sms = sms_of(q.device)
        if isinstance(meta, FlashMLASchedMeta):
            meta.ready(cache_seqlens, shape, sms)
        else:
            check_plan(plan, splits, shape, sms)
        return decode(q, k_cache, block_table, cache_seqlens, plan, splits, scale, causal, fixed, fused)

    tensors = (q, k_cache, block_table, cache_seqlens, plan, splits)
    results = replay.run_allocating(("decode", head_dim_v, scale, causal, fixed, fused, made_for), tensors, prepare)
    return results[0], results[1]
