"""Sizes and memory layouts that the FP8 kernels agree on, and the number of multiprocessors they may use.

Activation scales are float32 `[m, ceil(k / 128)]` with m as the contiguous axis and its stride padded to 16 bytes,
so that the copy engine fetches the scales of one K block of a tile as one row. Weight scales are plain
`[ceil(n / 128), ceil(k / 128)]`. Names are those of DeepGEMM.
"""

from __future__ import annotations

import torch

from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit.driver import require_hopper

__all__ = [
    "ceil_div",
    "contiguous_alignment",
    "even_rounds",
    "get_col_major_tma_aligned_tensor",
    "get_m_alignment_for_contiguous_layout",
    "get_num_sms",
    "get_tma_aligned_size",
    "set_addend",
    "set_mk_alignment_for_contiguous_layout",
    "set_num_sms",
    "sms_limit",
    "sms_of",
]

K_BLOCK = 128  # values that share one activation scale
_TMA_BYTES = 16
_sms_limit: int | None = None
_contiguous_alignment = 128


def ceil_div(x: int, y: int) -> int:
    return -(-x // y)


def get_tma_aligned_size(x: int, element_size: int) -> int:
    """`x` rounded up so that x elements are a multiple of 16 bytes."""
    if element_size not in (1, 2, 4, 8, 16):
        raise InvalidInput(f"element_size is {element_size}; it may be 1, 2, 4, 8 or 16 bytes")
    step = _TMA_BYTES // element_size
    return ceil_div(x, step) * step


def get_m_alignment_for_contiguous_layout() -> int:
    """Rows at whose multiples each group of the contiguous grouped layout begins."""
    return contiguous_alignment()


def set_mk_alignment_for_contiguous_layout(rows: int) -> None:
    """Let groups of the contiguous layout begin at multiples of 64 rows: less padding for small groups, smaller tiles.

    All calls of the process use it from now on.
    """
    global _contiguous_alignment
    if rows not in (64, 128):
        raise InvalidInput(f"the alignment is {rows}; it may be 64 or 128 rows")
    _contiguous_alignment = rows


def contiguous_alignment() -> int:
    """What `set_mk_alignment_for_contiguous_layout` set, else 128."""
    return _contiguous_alignment


def set_num_sms(count: int) -> None:
    """Use at most `count` multiprocessors, leaving the rest to other streams."""
    global _sms_limit
    if not 0 < count <= 132 or count % 2:
        raise InvalidInput(f"num_sms is {count}; it must be even and between 2 and 132")
    _sms_limit = count


def get_num_sms() -> int:
    """The limit, or all multiprocessors of the current device."""
    if _sms_limit is not None:
        return _sms_limit
    return require_hopper(torch.cuda.current_device() if torch.cuda.is_available() else 0)


def even_rounds(tiles: int, blocks_max: int) -> int:
    """The fewest blocks that take as many rounds as `blocks_max`: idle multiprocessors leave power to the others."""
    return ceil_div(tiles, ceil_div(tiles, blocks_max)) if tiles else 0


def sms_limit() -> int | None:
    """What `set_num_sms` set."""
    return _sms_limit


def sms_of(device: torch.device) -> int:
    """How many multiprocessors a launch on `device` may use; the error that says why it cannot run there."""
    if device.type != "cuda":
        require_hopper(0)
        raise InvalidInput(f"lhs is on {device}; move the operands to the GPU")
    return min(get_num_sms(), require_hopper(device.index or 0))


def set_addend(d: torch.Tensor, c: torch.Tensor | None) -> None:
    """Put what a product is to be added to into `d`, where the kernels add: c, or zeros. Nothing if c is d already."""
    if c is None:
        d.zero_()
    elif c.data_ptr() != d.data_ptr():
        d.copy_(c)


def get_col_major_tma_aligned_tensor(x: torch.Tensor) -> torch.Tensor:
    """Scales `[m, k]` or `[g, m, k]` with m contiguous and padded; returns `x` itself if it already is so."""
    if x.dim() not in (2, 3) or x.dtype != torch.float32:
        raise InvalidInput(f"scales must be float32 [m, k] or [g, m, k], not {x.dtype} {tuple(x.shape)}")
    *groups, m, k = x.shape
    aligned = get_tma_aligned_size(m, 4)
    strides = (*((aligned * k,) if groups else ()), 1, aligned)
    if x.stride() == strides and x.data_ptr() % 16 == 0:
        return x
    storage = torch.empty(max(aligned * k * (groups[0] if groups else 1), 1), dtype=x.dtype, device=x.device)
    return storage.as_strided(x.shape, strides).copy_(x)
