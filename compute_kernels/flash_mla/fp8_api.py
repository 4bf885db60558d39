"""The public side of `fp8_decode` and `gather_decode`: FP8 caches and sparse prefill. Check, plan, launch."""

from __future__ import annotations

import torch

from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.flash_mla.checks import FlashMLASchedMeta, check_lengths, check_tensor, expect, sms_of
from threefs.compute_kernels.flash_mla.dense_decode import HEAD, VALUES, DecodeShape
from threefs.compute_kernels.flash_mla.fp8_decode import FP8_KEY, decode_fp8_dense
from threefs.compute_kernels.flash_mla.gather_decode import FP8_ROW, decode_fp8, prefill

__all__ = ["flash_mla_sparse_fwd", "fp8_attention"]


def _check_fp8_call(q: torch.Tensor, cache: torch.Tensor, head_dim_v: int) -> None:
    expect(q.dtype == torch.bfloat16, lambda: f"q is {q.dtype}; with an FP8 cache it must be torch.bfloat16")
    expect(
        q.dim() == 4 and q.shape[3] == HEAD and q.is_contiguous(),
        lambda: f"q has shape {tuple(q.shape)} and strides {q.stride()}; it must be contiguous (b, s_q, h_q, {HEAD})",
    )
    expect(min(q.shape) > 0, lambda: f"q has shape {tuple(q.shape)}; no extent may be 0")
    expect(head_dim_v == VALUES, lambda: f"head_dim_v is {head_dim_v}; it must be {VALUES}")
    expect(
        cache.element_size() == 1, lambda: f"k_cache is {cache.dtype}; an FP8 cache is bytes (uint8 or float8_e4m3fn)"
    )
    expect(
        cache.dim() == 4
        and cache.shape[2] == 1
        and cache.shape[3] in (FP8_KEY, FP8_ROW)
        and cache.shape[0] > 0
        and cache.is_contiguous()
        and cache.data_ptr() % 16 == 0,
        lambda: (
            f"k_cache has shape {tuple(cache.shape)}; it must be contiguous (blocks, page, 1, {FP8_KEY}) as "
            f"quantise_pages makes it, or (blocks, page, 1, {FP8_ROW}) as quantise_rows does"
        ),
    )
    page = cache.shape[1]
    expect(
        cache.shape[3] == FP8_ROW or (page >= 16 and page & (page - 1) == 0),
        lambda: f"the page size is {page}; with {FP8_KEY} bytes a key it must be a power of two from 16",
    )
    expect(cache.device == q.device, lambda: f"k_cache is on {cache.device} and q on {q.device}; use one device")


def fp8_attention(
    q: torch.Tensor,
    cache: torch.Tensor,
    table: torch.Tensor | None,
    lengths: torch.Tensor | None,
    head_dim_v: int,
    meta: FlashMLASchedMeta,
    scale: float,
    causal: bool,
    indices: torch.Tensor | None,
    sink: torch.Tensor | None,
    topk_length: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The FP8 half of `flash_mla_with_kvcache`."""
    _check_fp8_call(q, cache, head_dim_v)
    batch, s_q, heads, _ = q.shape
    by_page = cache.shape[3] == FP8_KEY
    expect(not by_page or indices is None, lambda: f"indices go with {FP8_ROW} bytes a key; see quantise_rows")
    expect(
        by_page or not meta.batch_invariant,
        lambda: f"batch_invariant is for bf16 and fp16 caches, and {FP8_KEY} bytes a key; see quantise_pages",
    )
    if sink is not None:
        check_tensor("attn_sink", sink, torch.float32, (heads,), q.device)
    if indices is None:
        if table is None or lengths is None:
            raise InvalidInput("block_table and cache_seqlens are needed: only a call with indices goes without them")
        expect(topk_length is None, lambda: "topk_length is given without indices")
        check_lengths(lengths)
        check_tensor("cache_seqlens", lengths, torch.int32, (batch,), q.device)
        check_tensor("block_table", table, torch.int32, (batch, table.shape[-1]), q.device)
        plan, splits = meta.ready(lengths, DecodeShape(batch, s_q, heads, 1, cache.shape[1]), sms_of(q.device))
        if by_page:
            fixed = meta.batch_invariant
            return decode_fp8_dense(q, cache, table, lengths, plan, splits, scale, causal, sink, fixed)
        return decode_fp8(q, cache, table, None, lengths, plan, splits, scale, causal, sink)
    expect(not causal, lambda: "causal is set; a sparse call sees what its indices name, pass causal=False")
    topk = indices.shape[-1]
    check_tensor("indices", indices, torch.int32, (batch, s_q, topk), q.device)
    if topk_length is not None:
        check_tensor("topk_length", topk_length, torch.int32, (batch,), q.device)
    sms = sms_of(q.device)
    shape = DecodeShape(batch * s_q, 1, heads, 1, cache.shape[1])
    keys = meta.lengths
    if keys is None:
        keys = (
            torch.full((batch * s_q,), topk, dtype=torch.int32, device=q.device)
            if topk_length is None
            else topk_length.clamp(max=topk).repeat_interleave(s_q)
        )
    plan, splits = meta.ready(keys, shape, sms)
    out, lse = decode_fp8(
        q.view(batch * s_q, 1, heads, HEAD), cache, None, indices, keys, plan, splits, scale, False, sink
    )
    return out.view(batch, s_q, heads, VALUES), lse.view(batch, s_q, heads).transpose(1, 2)


def flash_mla_sparse_fwd(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    d_v: int = VALUES,
    attn_sink: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sparse prefill: q (s_q, h_q, d), kv (s_kv, 1, d), indices int32 (s_q, 1, k) with d 576 or 512, all bf16.

    Returns out (s_q, h_q, 512), the largest logit (s_q, h_q) and lse (s_q, h_q), both float32 and natural. An index
    outside [0, s_kv) is skipped; of each list the first `topk_length` int32 (s_q,) count. A row that sees nothing has
    out = 0, largest logit -inf, lse = +inf.
    """
    s_q, heads, head = q.shape if q.dim() == 3 else (0, 0, 0)
    expect(q.dtype == torch.bfloat16, lambda: f"q is {q.dtype}; it must be torch.bfloat16")
    expect(
        head in (HEAD, VALUES) and heads > 0 and q.is_contiguous(),
        lambda: f"q has shape {tuple(q.shape)} and strides {q.stride()}; it must be contiguous (s_q, h_q, 576 or 512)",
    )
    expect(d_v == VALUES, lambda: f"d_v is {d_v}; it must be {VALUES}")
    expect(0.0 < sm_scale < float("inf"), lambda: f"sm_scale is {sm_scale}; it must be positive and finite")
    check_tensor("kv", kv, torch.bfloat16, (kv.shape[0], 1, head), q.device)
    topk = indices.shape[-1]
    check_tensor("indices", indices, torch.int32, (s_q, 1, topk), q.device)
    if attn_sink is not None:
        check_tensor("attn_sink", attn_sink, torch.float32, (heads,), q.device)
    if topk_length is not None:
        check_tensor("topk_length", topk_length, torch.int32, (s_q,), q.device)
    sms = sms_of(q.device)
    lengths = (
        torch.full((s_q,), topk, dtype=torch.int32, device=q.device)
        if topk_length is None
        else topk_length.clamp(min=0, max=topk)
    )
    if s_q == 0:
        return q.new_empty(0, heads, VALUES), q.new_empty(0, heads, dtype=torch.float32), q.new_empty(0, heads).float()
    return prefill(q, kv, indices, lengths, sm_scale, attn_sink, sms)
