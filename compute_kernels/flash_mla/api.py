"""The public functions: check, plan, launch. Nothing here waits for the device.

Both generations of FlashMLA's interface work. The first release's: `get_mla_metadata(lengths, rows, kv_heads)` plans
at once and returns two tensors. The current one: `get_mla_metadata()` returns an object that plans at its first use
and must be made anew when lengths change. lse is the natural logarithm; a row that sees no key has out = 0, lse = +inf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import overload

import torch

from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.flash_mla.dense_decode import (
    BATCH_MAX,
    HEAD,
    PLAN_ROW,
    ROWS,
    VALUES,
    DecodeShape,
    decode,
    make_plan,
)
from threefs.compute_kernels.jit.driver import require_hopper

__all__ = ["FlashMLASchedMeta", "flash_mla_with_kvcache", "get_mla_metadata"]


@dataclass
class FlashMLASchedMeta:
    """A plan that is made at the first attention call and then reused; remembers the shape it was made for."""

    plan: torch.Tensor | None = field(default=None, repr=False)
    splits: torch.Tensor | None = field(default=None, repr=False)
    shape: DecodeShape | None = None

    def ready(self, lengths: torch.Tensor, shape: DecodeShape, num_sms: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.plan is None or self.splits is None:
            self.plan, self.splits = make_plan(lengths, shape.parts(num_sms))
            self.shape = shape
        elif self.shape != shape:
            raise InvalidInput(
                f"this plan was made for {self.shape} and is now used with {shape}; call get_mla_metadata() again"
            )
        return self.plan, self.splits


def _expect(condition: bool, message: Callable[[], str]) -> None:
    if not condition:
        raise InvalidInput(message())


def _sms(device: torch.device) -> int:
    if device.type != "cuda":
        require_hopper(0)
        raise InvalidInput(f"the tensors are on {device}; move them to the GPU")
    return require_hopper(device.index or 0)


def _check_lengths(lengths: torch.Tensor) -> None:
    _expect(lengths.dtype == torch.int32, lambda: f"cache_seqlens is {lengths.dtype}; it must be torch.int32")
    _expect(
        lengths.dim() == 1 and lengths.is_contiguous(),
        lambda: f"cache_seqlens has shape {tuple(lengths.shape)}; it must be contiguous (b,)",
    )
    _expect(0 < lengths.shape[0] <= BATCH_MAX, lambda: f"the batch is {lengths.shape[0]}; it must be 1 to {BATCH_MAX}")


@overload
def get_mla_metadata() -> tuple[FlashMLASchedMeta, None]: ...
@overload
def get_mla_metadata(
    cache_seqlens: torch.Tensor, num_heads_per_head_k: int, num_heads_k: int
) -> tuple[torch.Tensor, torch.Tensor]: ...
def get_mla_metadata(
    cache_seqlens: torch.Tensor | None = None, num_heads_per_head_k: int | None = None, num_heads_k: int | None = None
) -> tuple[FlashMLASchedMeta, None] | tuple[torch.Tensor, torch.Tensor]:
    """The plan, int32 (parts, 8), and the running sum of splits, int32 (b + 1,); without arguments, a lazy object.

    `num_heads_per_head_k` is s_q * h_q // h_kv. Queued on the current stream; graph-safe.
    """
    if cache_seqlens is None:
        return FlashMLASchedMeta(), None
    _check_lengths(cache_seqlens)
    if num_heads_per_head_k is None or num_heads_k is None or num_heads_per_head_k < 1 or num_heads_k < 1:
        raise InvalidInput(
            f"num_heads_per_head_k is {num_heads_per_head_k} and num_heads_k is {num_heads_k}; both must be 1 or more"
        )
    parts = max(_sms(cache_seqlens.device) // num_heads_k // -(-num_heads_per_head_k // ROWS), 1)
    return make_plan(cache_seqlens, parts)


def _check_call(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, head_dim_v: int
) -> DecodeShape:
    _expect(
        q.dtype in (torch.bfloat16, torch.float16),
        lambda: f"q is {q.dtype}; it must be torch.bfloat16 or torch.float16",
    )
    _expect(cache.dtype == q.dtype, lambda: f"k_cache is {cache.dtype} and q is {q.dtype}; both must be the same")
    _expect(
        q.dim() == 4 and cache.dim() == 4,
        lambda: f"q {tuple(q.shape)} and k_cache {tuple(cache.shape)} must have 4 dimensions",
    )
    _expect(
        q.shape[3] == cache.shape[3] == HEAD,
        lambda: f"head sizes are {q.shape[3]} and {cache.shape[3]}; both must be {HEAD}",
    )
    _expect(head_dim_v == VALUES, lambda: f"head_dim_v is {head_dim_v}; it must be {VALUES}")
    batch, s_q, heads, _ = q.shape
    page, kv_heads = cache.shape[1], cache.shape[2]
    _expect(s_q > 0 and heads > 0, lambda: f"q has shape {tuple(q.shape)}; s_q and h_q must be 1 or more")
    _expect(
        kv_heads > 0 and heads % kv_heads == 0,
        lambda: f"h_q is {heads} and h_kv is {kv_heads}; h_q must be a multiple of h_kv",
    )
    _expect(
        page >= 16 and page & (page - 1) == 0, lambda: f"the page size is {page}; it must be a power of two from 16"
    )
    _expect(q.is_contiguous(), lambda: f"q has strides {q.stride()}; call .contiguous() first")
    _expect(
        cache.stride(3) == 1, lambda: f"k_cache has strides {cache.stride()}; its last dimension must be contiguous"
    )
    _check_lengths(lengths)
    _expect(lengths.shape[0] == batch, lambda: f"cache_seqlens has {lengths.shape[0]} entries and q {batch} requests")
    _expect(table.dtype == torch.int32, lambda: f"block_table is {table.dtype}; it must be torch.int32")
    _expect(
        table.dim() == 2 and table.shape[0] == batch,
        lambda: f"block_table has shape {tuple(table.shape)}; it must be ({batch}, blocks)",
    )
    _expect(table.stride(1) == 1, lambda: f"block_table has strides {table.stride()}; its rows must be contiguous")
    for name, tensor in (("k_cache", cache), ("block_table", table), ("cache_seqlens", lengths)):
        if tensor.device != q.device:
            raise InvalidInput(f"{name} is on {tensor.device} and q on {q.device}; use one device")
    return DecodeShape(batch, s_q, heads, kv_heads, page)


def flash_mla_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    block_table: torch.Tensor,
    cache_seqlens: torch.Tensor,
    head_dim_v: int,
    tile_scheduler_metadata: torch.Tensor | FlashMLASchedMeta,
    num_splits: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (b, s_q, h_q, 576) over the pages of k_cache (blocks, page, h_kv, 576).

    Returns out (b, s_q, h_q, 512) in q's dtype and lse (b, h_q, s_q) float32, natural log. The scale defaults to
    576 ** -0.5. `causal` lets the last query position see all keys. Entries of `block_table` past a request's length,
    and what the cache holds there, have no influence; not even NaN.
    """
    shape = _check_call(q, k_cache, block_table, cache_seqlens, head_dim_v)
    scale = HEAD**-0.5 if softmax_scale is None else softmax_scale
    _expect(0.0 < scale < float("inf"), lambda: f"softmax_scale is {scale}; it must be positive and finite")
    sms = _sms(q.device)
    if isinstance(tile_scheduler_metadata, FlashMLASchedMeta):
        _expect(num_splits is None, lambda: "num_splits must be None with a lazy plan: the plan holds it")
        plan, splits = tile_scheduler_metadata.ready(cache_seqlens, shape, sms)
    else:
        plan = tile_scheduler_metadata
        if num_splits is None:
            raise InvalidInput("num_splits is None; pass both tensors that get_mla_metadata returned")
        splits = num_splits
        _expect(
            plan.dtype == splits.dtype == torch.int32,
            lambda: f"the plan is {plan.dtype} and {splits.dtype}; both must be torch.int32",
        )
        _expect(
            plan.dim() == 2 and plan.shape[1] == PLAN_ROW,
            lambda: f"the plan has shape {tuple(plan.shape)}; it must be (parts, {PLAN_ROW})",
        )
        _expect(
            0 < plan.shape[0] <= shape.parts(sms),
            lambda: f"the plan has {plan.shape[0]} parts; for {shape} it may have {shape.parts(sms)}",
        )
        _expect(
            tuple(splits.shape) == (shape.batch + 1,),
            lambda: f"num_splits has shape {tuple(splits.shape)}; it must be ({shape.batch + 1},)",
        )
    return decode(q, k_cache, block_table, cache_seqlens, plan, splits, scale, causal)
