"""The public side of `fp8_decode` and `gather_decode`: FP8 caches and sparse prefill. Check, plan, launch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.flash_mla.checks import FlashMLASchedMeta, check_lengths, check_tensor, expect, sms_of
from threefs.compute_kernels.flash_mla.dense_decode import HEAD, VALUES, DecodeShape
from threefs.compute_kernels.flash_mla.fp8_decode import FP8_KEY, decode_fp8_dense
from threefs.compute_kernels.flash_mla.gather_decode import FP8_ROW, decode_fp8, prefill
from threefs.compute_kernels.jit import replay

__all__ = ["Fp8Call", "flash_mla_sparse_fwd", "fp8_attention"]


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


class Fp8Call(NamedTuple):
    """Arguments of `flash_mla_with_kvcache` over an FP8 cache."""

    q: torch.Tensor
    cache: torch.Tensor
    table: torch.Tensor | None
    lengths: torch.Tensor | None
    head_dim_v: int
    scale: float
    causal: bool
    indices: torch.Tensor | None
    sink: torch.Tensor | None
    topk_length: torch.Tensor | None

    @property
    def by_page(self) -> bool:
        return self.cache.shape[-1] == FP8_KEY

    @property
    def shape(self) -> DecodeShape:
        """Of a sparse call, each query position is a request of its own."""
        batch, s_q, heads, _ = self.q.shape
        batch, s_q = (batch, s_q) if self.indices is None else (batch * s_q, 1)
        return DecodeShape(batch, s_q, heads, 1, self.cache.shape[1])

    def keys(self) -> torch.Tensor:
        """How many keys each request of the plan has. Queued, if it is not an argument."""
        if self.indices is None:
            assert self.lengths is not None
            return self.lengths
        batch, s_q, topk = self.indices.shape
        if self.topk_length is None:
            return torch.full((batch * s_q,), topk, dtype=torch.int32, device=self.q.device)
        return self.topk_length.clamp(max=topk).repeat_interleave(s_q)


def _check_dense(call: Fp8Call) -> None:
    if call.table is None or call.lengths is None:
        raise InvalidInput("block_table and cache_seqlens are needed: only a call with indices goes without them")
    batch, device = call.q.shape[0], call.q.device
    expect(call.topk_length is None, lambda: "topk_length is given without indices")
    check_lengths(call.lengths)
    check_tensor("cache_seqlens", call.lengths, torch.int32, (batch,), device)
    check_tensor("block_table", call.table, torch.int32, (batch, call.table.shape[-1]), device)


def _check_sparse(call: Fp8Call, indices: torch.Tensor) -> None:
    expect(not call.by_page, lambda: f"indices go with {FP8_ROW} bytes a key; see quantise_rows")
    expect(not call.causal, lambda: "causal is set; a sparse call sees what its indices name, pass causal=False")
    batch, s_q, _, _ = call.q.shape
    check_tensor("indices", indices, torch.int32, (batch, s_q, indices.shape[-1]), call.q.device)
    if call.topk_length is not None:
        check_tensor("topk_length", call.topk_length, torch.int32, (batch,), call.q.device)


def _check(call: Fp8Call, meta: FlashMLASchedMeta) -> None:
    _check_fp8_call(call.q, call.cache, call.head_dim_v)
    expect(not meta.fused_combine, lambda: "fused_combine is for bf16 and fp16 caches")
    expect(
        call.by_page or not meta.batch_invariant,
        lambda: f"batch_invariant is for bf16 and fp16 caches, and {FP8_KEY} bytes a key; see quantise_pages",
    )
    if call.sink is not None:
        check_tensor("attn_sink", call.sink, torch.float32, (call.q.shape[2],), call.q.device)
    if call.indices is None:
        _check_dense(call)
    else:
        _check_sparse(call, call.indices)


def fp8_attention(call: Fp8Call, meta: FlashMLASchedMeta) -> tuple[torch.Tensor, torch.Tensor]:
    """The FP8 half of `flash_mla_with_kvcache`."""
    if (
        meta.plan is None or meta.splits is None or meta.lengths is None
    ):  # here, since what `prepare` queues is repeated
        _check(call, meta)
        plan, splits = meta.ready(call.keys(), call.shape, sms_of(call.q.device))
    else:
        plan, splits = meta.plan, meta.splits
    keys = meta.lengths if call.lengths is None or call.indices is not None else call.lengths
    assert keys is not None
    optional = (call.table, call.lengths, call.indices, call.sink, call.topk_length)

    def prepare() -> replay.Work:
        _check(call, meta)
        meta.ready(keys, call.shape, sms_of(call.q.device))
        q = call.q.view(call.shape.batch, call.shape.s_q, -1, HEAD)
        if call.by_page and call.table is not None:
            by_page = (call.table, keys, plan, splits, call.scale, call.causal, call.sink, meta.batch_invariant)
            return decode_fp8_dense(q, call.cache, *by_page)
        table = call.table if call.indices is None else None
        return decode_fp8(q, call.cache, table, call.indices, keys, plan, splits, call.scale, call.causal, call.sink)

    given = (call.head_dim_v, call.scale, call.causal, meta.batch_invariant, meta.shape)
    tensors = (call.q, call.cache, keys, plan, splits, *(tensor for tensor in optional if tensor is not None))
    kind = ("fp8", *given, *(tensor is None for tensor in optional))
    results = replay.run_allocating(kind, tensors, prepare)
    out, lse = results[0], results[1]
    if call.indices is None:
        return out, lse
    batch, s_q, heads, _ = call.q.shape
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
    tensors = (q, kv, indices, *(tensor for tensor in (attn_sink, topk_length) if tensor is not None))

    def prepare() -> replay.Work:
        _check_prefill(q, kv, indices, sm_scale, d_v, attn_sink, topk_length)
        return prefill(q, kv, indices, topk_length, sm_scale, attn_sink, sms_of(q.device))

    kind = ("prefill", sm_scale, d_v, attn_sink is None, topk_length is None)
    out, top, lse = replay.run_allocating(kind, tensors, prepare)
    return out, top, lse


def _check_prefill(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    sm_scale: float,
    d_v: int,
    attn_sink: torch.Tensor | None,
    topk_length: torch.Tensor | None,
) -> None:
    s_q, heads, head = q.shape if q.dim() == 3 else (0, 0, 0)
    expect(q.dtype == torch.bfloat16, lambda: f"q is {q.dtype}; it must be torch.bfloat16")
    expect(
        head in (HEAD, VALUES) and heads > 0 and q.is_contiguous(),
        lambda: f"q has shape {tuple(q.shape)} and strides {q.stride()}; it must be contiguous (s_q, h_q, 576 or 512)",
    )
    expect(d_v == VALUES, lambda: f"d_v is {d_v}; it must be {VALUES}")
    expect(0.0 < sm_scale < float("inf"), lambda: f"sm_scale is {sm_scale}; it must be positive and finite")
    check_tensor("kv", kv, torch.bfloat16, (kv.shape[0], 1, head), q.device)
    check_tensor("indices", indices, torch.int32, (s_q, 1, indices.shape[-1]), q.device)
    if attn_sink is not None:
        check_tensor("attn_sink", attn_sink, torch.float32, (heads,), q.device)
    if topk_length is not None:
        check_tensor("topk_length", topk_length, torch.int32, (s_q,), q.device)
