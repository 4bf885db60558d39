"""Quantisation to e4m3 as DeepSeek-V3 does it, and the measure by which results are compared.

A scale is the largest magnitude over 448, e4m3's largest value; an all-zero group has a tiny scale instead of 0, so
that nothing is divided by 0. On a Hopper GPU one kernel reads the values once (`cast.cu`) and leaves the scales as the
products take them; elsewhere, and for other dtypes, it is plain tensors, to which the kernel is equal bit for bit
(on a GPU PyTorch multiplies with 1 / 448 instead, so its scales may differ in the last bit).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch

from threefs.compute_kernels.deep_gemm.layout import K_BLOCK, ceil_div, get_tma_aligned_size
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import KernelSource, Launch, loaded, replay

__all__ = ["calc_diff", "cast_source", "per_block_cast_to_fp8", "per_channel_cast_to_fp8", "per_token_cast_to_fp8"]

_E4M3_MAX = 448.0
_TINY = 1e-4
_THREADS, _VECTOR_BYTES = 256, 16
_TYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
Quantised = tuple[torch.Tensor, torch.Tensor]


def per_token_cast_to_fp8(x: torch.Tensor) -> Quantised:
    """[m, k] to e4m3 [m, k] and one float32 scale for each row and 128 values, [m, ceil(k / 128)].

    On a Hopper GPU the scales lie as `get_col_major_tma_aligned_tensor` would put them, which then returns them as
    they are. Raises `InvalidInput` if x is not a matrix.
    """
    return _cast(x, "[m, k]", 1)


def per_block_cast_to_fp8(x: torch.Tensor) -> Quantised:
    """[n, k] to e4m3 [n, k] and one float32 scale for each 128 x 128 block, [ceil(n / 128), ceil(k / 128)]."""
    return _cast(x, "[n, k]", K_BLOCK)


def per_channel_cast_to_fp8(x: torch.Tensor) -> Quantised:
    """[m, n] to e4m3 [m, n] and one float32 scale for each column and 128 rows, [ceil(m / 128), n]."""
    _check_matrix(x, "[m, n]")
    return plain_cast(x, K_BLOCK, 1)


def _check_matrix(x: torch.Tensor, shape: str) -> None:
    if x.dim() != 2:
        raise InvalidInput(f"x has shape {tuple(x.shape)}; it must be {shape}")


def _cast(x: torch.Tensor, shape: str, rows: int) -> Quantised:
    _check_matrix(x, shape)
    if x.is_cuda and x.dtype in _TYPES and torch.cuda.get_device_capability(x.device) == (9, 0):
        return fused_cast(x, rows)
    return plain_cast(x, rows, K_BLOCK)


def plain_cast(x: torch.Tensor, rows: int, columns: int) -> Quantised:
    """The formula in plain tensors: a scale for each `rows` x `columns` values."""
    m, k = x.shape
    down, across = ceil_div(m, rows), ceil_div(k, columns)
    padded = torch.nn.functional.pad(x.float(), (0, across * columns - k, 0, down * rows - m))
    groups = padded.view(down, rows, across, columns)
    scale = groups.abs().amax((1, 3)).clamp(min=_TINY) / _E4M3_MAX
    values = (groups / scale[:, None, :, None]).to(torch.float8_e4m3fn).view(padded.shape)[:m, :k]
    return values.contiguous(), scale


@lru_cache(maxsize=16)
def cast_source(dtype: torch.dtype, rows: int, vector: bool = True) -> KernelSource:
    """The kernel for groups of `rows` x 128; `vector` if rows of x are whole vectors of 16 bytes."""
    constants = (("TYPE", _TYPES[dtype]), ("VECTOR", int(vector)), ("ROWS", rows))
    return KernelSource(Path(__file__).with_name("cast.cu"), "fp8_cast", constants)


def fused_cast(x: torch.Tensor, rows: int) -> Quantised:
    """The same by `cast.cu`, for groups of 1 x 128 or 128 x 128 of bf16, fp16 or float32."""
    if x.stride(1) != 1 and x.shape[1] > 1:
        x = x.contiguous()

    def prepare() -> replay.Work:
        m, k = x.shape
        blocks, device = ceil_div(k, K_BLOCK), x.device
        stride = get_tma_aligned_size(m, 4) if rows == 1 else blocks
        row_bytes = x.stride(0) * x.element_size()
        vector = (x.data_ptr() | row_bytes | k * x.element_size()) % _VECTOR_BYTES == 0
        source, tiles = cast_source(x.dtype, rows, vector), ceil_div(m, K_BLOCK) * blocks
        scale_at = ((m, blocks), (1, stride)) if rows == 1 else ((ceil_div(m, K_BLOCK), blocks), (stride, 1))

        def allocate() -> replay.Results:
            values = torch.empty(m, k, dtype=torch.float8_e4m3fn, device=device)
            return values, torch.empty_strided(*scale_at, dtype=torch.float32, device=device)

        def launch(results: replay.Results) -> bool:
            pointers = (ctypes.c_uint64(tensor.data_ptr()) for tensor in (x, *results))
            numbers = (ctypes.c_uint64(row_bytes), *map(ctypes.c_uint32, (m, k, stride)))
            if tiles:
                loaded(source).launch(Launch((tiles, 1, 1), _THREADS, 0), (*pointers, *numbers), device)
            return True

        return replay.Work(allocate, launch)

    values, scale = replay.run_allocating(("cast", rows), (x,), prepare)
    return values, scale


def calc_diff(x: torch.Tensor, y: torch.Tensor) -> float:
    """1 - 2 <x, y> / (|x|^2 + |y|^2): 0 for equal tensors, in float64. Two zero tensors are equal."""
    wide_x, wide_y = x.double(), y.double()
    scale = float((wide_x * wide_x + wide_y * wide_y).sum())
    return 0.0 if scale == 0.0 else 1.0 - 2.0 * float((wide_x * wide_y).sum()) / scale
