"""Groups of the contiguous layout by where they end, for callers that know no group of each row."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch

from threefs.compute_kernels.deep_gemm.layout import ceil_div, contiguous_alignment
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import KernelSource, Launch, loaded, replay
from threefs.compute_kernels.jit.driver import require_hopper

__all__ = ["fused_groups_of_ends", "group_ids_source", "groups_of_ends", "plain_groups_of_ends"]

_THREADS = 256


def groups_of_ends(ends: torch.Tensor, rows: int, groups: int) -> torch.Tensor:
    """The group of each row, int32 [rows]; -1 for rows of nobody. `ends` int32 [groups] says where each group ends.

    The next group starts at the next multiple of the contiguous layout's alignment. Queued on the current stream, may
    be captured: one kernel on a GPU (`group_ids.cu`), plain tensors elsewhere.
    """
    if ends.dtype != torch.int32 or tuple(ends.shape) != (groups,):
        raise InvalidInput(f"ends of groups are {ends.dtype} {tuple(ends.shape)}; they must be int32 {(groups,)}")
    if ends.is_cuda:
        require_hopper(ends.device.index or 0)
        return fused_groups_of_ends(ends, rows)
    return plain_groups_of_ends(ends, rows)


@lru_cache(maxsize=1)
def group_ids_source() -> KernelSource:
    return KernelSource(Path(__file__).with_name("group_ids.cu"), "group_ids", (("THREADS", _THREADS),))


def fused_groups_of_ends(ends: torch.Tensor, rows: int) -> torch.Tensor:
    """`groups_of_ends` by the kernel."""
    ends, step = ends.contiguous(), contiguous_alignment()

    def launch(results: replay.Results) -> bool:
        if rows:
            pointers = (ctypes.c_uint64(tensor.data_ptr()) for tensor in (ends, *results))
            numbers = (ctypes.c_uint32(number) for number in (rows, ends.shape[0], step))
            grid = Launch((ceil_div(rows, _THREADS), 1, 1), _THREADS, 0)
            loaded(group_ids_source()).launch(grid, (*pointers, *numbers), ends.device)
        return True

    def prepare() -> replay.Work:
        new = replay.maker(torch.int32, ends.device)
        return replay.Work(lambda: (new(rows),), launch)

    return replay.run_allocating(("group ids", rows, step), (ends,), prepare)[0]


def plain_groups_of_ends(ends: torch.Tensor, rows: int) -> torch.Tensor:
    """The same in plain tensors."""
    groups, step = ends.shape[0], contiguous_alignment()
    if groups == 0:
        return torch.full((rows,), -1, dtype=torch.int32, device=ends.device)
    starts = torch.zeros_like(ends)
    starts[1:] = (ends[:-1] + (step - 1)) // step * step
    row = torch.arange(rows, dtype=torch.int32, device=ends.device)
    group = torch.searchsorted(ends, row, right=True, out_int32=True)  # the first that ends behind the row
    inside = (group < groups) & (row >= starts[group.clamp(max=groups - 1)])
    return torch.where(inside, group, -1)
