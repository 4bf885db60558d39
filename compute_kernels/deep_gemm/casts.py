"""Quantisation to e4m3 as DeepSeek-V3 does it, and the measure by which results are compared.

Plain tensors: they run anywhere. A scale is the largest magnitude over 448, e4m3's largest value; an all-zero
group has a tiny scale instead of 0, so that nothing is divided by 0.
"""

from __future__ import annotations

import torch

from threefs.compute_kernels.deep_gemm.layout import ceil_div
from threefs.compute_kernels.errors import InvalidInput

__all__ = ["calc_diff", "per_block_cast_to_fp8", "per_token_cast_to_fp8"]

_E4M3_MAX = 448.0
_TINY = 1e-4


def per_token_cast_to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[m, k] to e4m3 [m, k] and one float32 scale for each row and 128 values, [m, ceil(k / 128)]."""
    if x.dim() != 2:
        raise InvalidInput(f"x has shape {tuple(x.shape)}; it must be [m, k]")
    m, k = x.shape
    blocks = ceil_div(k, 128)
    padded = torch.nn.functional.pad(x.float(), (0, blocks * 128 - k)).view(m, blocks, 128)
    scale = padded.abs().amax(2).clamp(min=_TINY) / _E4M3_MAX
    values = (padded / scale[:, :, None]).to(torch.float8_e4m3fn).view(m, blocks * 128)[:, :k]
    return values.contiguous(), scale


def per_block_cast_to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, k] to e4m3 [n, k] and one float32 scale for each 128 x 128 block, [ceil(n / 128), ceil(k / 128)]."""
    if x.dim() != 2:
        raise InvalidInput(f"x has shape {tuple(x.shape)}; it must be [n, k]")
    n, k = x.shape
    rows, columns = ceil_div(n, 128), ceil_div(k, 128)
    padded = torch.nn.functional.pad(x.float(), (0, columns * 128 - k, 0, rows * 128 - n)).view(rows, 128, columns, 128)
    scale = padded.abs().amax((1, 3)).clamp(min=_TINY) / _E4M3_MAX
    values = (padded / scale[:, None, :, None]).to(torch.float8_e4m3fn).view(rows * 128, columns * 128)[:n, :k]
    return values.contiguous(), scale


def calc_diff(x: torch.Tensor, y: torch.Tensor) -> float:
    """1 - 2 <x, y> / (|x|^2 + |y|^2): 0 for equal tensors, in float64. Two zero tensors are equal."""
    wide_x, wide_y = x.double(), y.double()
    scale = float((wide_x * wide_x + wide_y * wide_y).sum())
    return 0.0 if scale == 0.0 else 1.0 - 2.0 * float((wide_x * wide_y).sum()) / scale
