"""The plan of paged MQA logits: where each part of the launch begins, whatever the lengths are."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch

from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import KernelSource, Launch, loaded, replay
from threefs.compute_kernels.jit.driver import require_hopper

__all__ = ["fused_logits_plan", "get_paged_mqa_logits_metadata", "logits_plan_source", "plain_logits_plan"]

_KEYS, _PAGE, _THREADS = 128, 64, 1024


def get_paged_mqa_logits_metadata(
    context_lens: torch.Tensor, block_kv: int, num_sms: int, indices: None = None
) -> torch.Tensor:
    """int32 [num_sms + 1, 2]: the request and the unit of 128 keys at which each part begins; graph-safe.

    Every request counts at least one unit, so that its row is cleaned. One kernel on a GPU (`logits_plan.cu`), plain
    tensors elsewhere. Raises `InvalidInput` for other pages than of 64 keys, and for `indices`, which Hopper's kernels
    know nothing of.
    """
    if block_kv != _PAGE:
        raise InvalidInput(f"block_kv is {block_kv}; it must be {_PAGE}")
    if context_lens.dtype != torch.int32 or context_lens.dim() != 1 or context_lens.shape[0] == 0:
        raise InvalidInput(f"context_lens is {context_lens.dtype} {tuple(context_lens.shape)}; it must be int32 (b,)")
    if num_sms < 1:
        raise InvalidInput(f"num_sms is {num_sms}; it must be 1 or more")
    if indices is not None:
        raise InvalidInput("indices are given; requests are taken in their order, pass indices=None")
    if context_lens.is_cuda:
        require_hopper(context_lens.device.index or 0)
        return fused_logits_plan(context_lens, num_sms)
    return plain_logits_plan(context_lens, num_sms)


@lru_cache(maxsize=1)
def logits_plan_source() -> KernelSource:
    return KernelSource(Path(__file__).with_name("logits_plan.cu"), "logits_plan")


def fused_logits_plan(lengths: torch.Tensor, parts: int) -> torch.Tensor:
    """The plan by the kernel."""
    lengths = lengths.contiguous()

    def launch(results: replay.Results) -> bool:
        pointers = (ctypes.c_uint64(tensor.data_ptr()) for tensor in (lengths, *results))
        numbers = (ctypes.c_uint32(number) for number in (lengths.shape[0], parts))
        loaded(logits_plan_source()).launch(Launch((1, 1, 1), _THREADS, 0), (*pointers, *numbers), lengths.device)
        return True

    def prepare() -> replay.Work:
        new = replay.maker(torch.int32, lengths.device)
        return replay.Work(lambda: (new(parts + 1, 2),), launch)

    return replay.run_allocating(("logits plan", parts), (lengths,), prepare)[0]


def plain_logits_plan(lengths: torch.Tensor, parts: int) -> torch.Tensor:
    """The same in plain tensors."""
    units = ((lengths.clamp(min=0) + _KEYS - 1) // _KEYS).clamp(min=1).to(torch.int64)
    ends = units.cumsum(0)
    begin = torch.arange(parts + 1, device=lengths.device) * ends[-1:] // parts
    request = torch.searchsorted(ends, begin, right=True)
    first = torch.cat([torch.zeros_like(ends[:1]), ends])
    return torch.stack([request, begin - first[request]], 1).to(torch.int32)
