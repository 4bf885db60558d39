"""What the attention functions check before anything is launched, and the lazy plan that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.flash_mla.dense_decode import HEAD, VALUES, DecodeShape
from threefs.compute_kernels.flash_mla.plan import BATCH_MAX, PLAN_ROW, make_plan
from threefs.compute_kernels.jit.driver import require_hopper

__all__ = ["FlashMLASchedMeta", "check_call", "check_lengths", "check_plan", "check_tensor", "expect", "sms_of"]


@dataclass
class FlashMLASchedMeta:
    """A plan that is made at the first attention call and then reused; remembers the shape it was made for.

    `batch_invariant`: requests are cut at fixed places, so that a request's bits do not depend on its batch.
    `fused_combine`: the attention kernel puts requests that are cut together, without a second launch.
    """

    plan: torch.Tensor | None = field(default=None, repr=False)
    splits: torch.Tensor | None = field(default=None, repr=False)
    shape: DecodeShape | None = None
    batch_invariant: bool = False
    fused_combine: bool = False
    lengths: torch.Tensor | None = field(default=None, repr=False)  # of a sparse call: keys of each query position

    def ready(self, lengths: torch.Tensor, shape: DecodeShape, num_sms: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.plan is None or self.splits is None:
            self.plan, self.splits = make_plan(lengths, shape.parts(num_sms), fixed=self.batch_invariant)
            self.shape, self.lengths = shape, lengths
        elif self.shape != shape:
            raise InvalidInput(
                f"this plan was made for {self.shape} and is now used with {shape}; call get_mla_metadata() again"
            )
        return self.plan, self.splits


def expect(condition: bool, message: Callable[[], str]) -> None:
    if not condition:
        raise InvalidInput(message())


def sms_of(device: torch.device) -> int:
    if device.type != "cuda":
        require_hopper(0)
        raise InvalidInput(f"the tensors are on {device}; move them to the GPU")
    return require_hopper(device.index or 0)


def check_lengths(lengths: torch.Tensor) -> None:
    expect(lengths.dtype == torch.int32, lambda: f"cache_seqlens is {lengths.dtype}; it must be torch.int32")
    expect(
        lengths.dim() == 1 and lengths.is_contiguous(),
        lambda: f"cache_seqlens has shape {tuple(lengths.shape)}; it must be contiguous (b,)",
    )
    expect(0 < lengths.shape[0] <= BATCH_MAX, lambda: f"the batch is {lengths.shape[0]}; it must be 1 to {BATCH_MAX}")


def check_call(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor, head_dim_v: int
) -> DecodeShape:
    expect(
        q.dtype in (torch.bfloat16, torch.float16),
        lambda: f"q is {q.dtype}; it must be torch.bfloat16 or torch.float16",
    )
    expect(cache.dtype == q.dtype, lambda: f"k_cache is {cache.dtype} and q is {q.dtype}; both must be the same")
    expect(
        q.dim() == 4 and cache.dim() == 4,
        lambda: f"q {tuple(q.shape)} and k_cache {tuple(cache.shape)} must have 4 dimensions",
    )
    expect(
        q.shape[3] == cache.shape[3] == HEAD,
        lambda: f"head sizes are {q.shape[3]} and {cache.shape[3]}; both must be {HEAD}",
    )
    expect(head_dim_v == VALUES, lambda: f"head_dim_v is {head_dim_v}; it must be {VALUES}")
    batch, s_q, heads, _ = q.shape
    page, kv_heads = cache.shape[1], cache.shape[2]
    expect(s_q > 0 and heads > 0, lambda: f"q has shape {tuple(q.shape)}; s_q and h_q must be 1 or more")
    expect(
        kv_heads > 0 and heads % kv_heads == 0,
        lambda: f"h_q is {heads} and h_kv is {kv_heads}; h_q must be a multiple of h_kv",
    )
    expect(page >= 16 and page & (page - 1) == 0, lambda: f"the page size is {page}; it must be a power of two from 16")
    expect(q.is_contiguous(), lambda: f"q has strides {q.stride()}; call .contiguous() first")
    expect(cache.stride(3) == 1, lambda: f"k_cache has strides {cache.stride()}; its last dimension must be contiguous")
    check_lengths(lengths)
    expect(lengths.shape[0] == batch, lambda: f"cache_seqlens has {lengths.shape[0]} entries and q {batch} requests")
    expect(table.dtype == torch.int32, lambda: f"block_table is {table.dtype}; it must be torch.int32")
    expect(
        table.dim() == 2 and table.shape[0] == batch,
        lambda: f"block_table has shape {tuple(table.shape)}; it must be ({batch}, blocks)",
    )
    expect(table.stride(1) == 1, lambda: f"block_table has strides {table.stride()}; its rows must be contiguous")
    for name, tensor in (("k_cache", cache), ("block_table", table), ("cache_seqlens", lengths)):
        if tensor.device != q.device:
            raise InvalidInput(f"{name} is on {tensor.device} and q on {q.device}; use one device")
    return DecodeShape(batch, s_q, heads, kv_heads, page)


def check_plan(plan: torch.Tensor, splits: torch.Tensor, shape: DecodeShape, sms: int) -> None:
    expect(
        plan.dtype == splits.dtype == torch.int32,
        lambda: f"the plan is {plan.dtype} and {splits.dtype}; both must be torch.int32",
    )
    expect(
        plan.dim() == 2 and plan.shape[1] == PLAN_ROW,
        lambda: f"the plan has shape {tuple(plan.shape)}; it must be (parts, {PLAN_ROW})",
    )
    expect(
        0 < plan.shape[0] <= shape.parts(sms),
        lambda: f"the plan has {plan.shape[0]} parts; for {shape} it may have {shape.parts(sms)}",
    )
    expect(
        tuple(splits.shape) == (shape.batch + 1,),
        lambda: f"num_splits has shape {tuple(splits.shape)}; it must be ({shape.batch + 1},)",
    )


def check_tensor(
    name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    expect(tensor.dtype == dtype, lambda: f"{name} is {tensor.dtype}; it must be {dtype}")
    expect(tuple(tensor.shape) == shape, lambda: f"{name} has shape {tuple(tensor.shape)}; it must be {shape}")
    expect(
        tensor.is_contiguous() and tensor.data_ptr() % 16 == 0,
        lambda: f"{name} has strides {tensor.stride()}; it must be contiguous and begin at 16 bytes",
    )
    expect(tensor.device == device, lambda: f"{name} is on {tensor.device} and q on {device}; use one device")
