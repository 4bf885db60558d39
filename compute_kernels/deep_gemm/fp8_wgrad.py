"""FP8 weight gradient: D += (A * scale_a) @ (B * scale_b).T, with float32 D, dense and for groups that differ in K.

Formula. A is e4m3 [m, k], B is e4m3 [n, k], both with one float32 scale for each row and 128 values of k.
D[i, j] += sum over K blocks b of scale_a[i, b] * scale_b[j, b] * (A[i, b] . B[j, b]).
Work: 2 m n k operations. Bytes: m k + n k + 8 m n. The tensor cores bound it, and beside them the promotion: two
multiplications and one addition for each value and K block, where a weight scale for 128 columns needs half of that.

Groups (experts) share m and n. Their operands lie behind each other, each [m, k_g]; scales of all K blocks behind each
other with m (or n) contiguous. One launch serves up to 64 groups: their tensor maps are kernel arguments.

All tiles take about the same time, so a last round of few tiles leaves most multiprocessors idle: `splits_tail`.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import torch

from threefs.compute_kernels.deep_gemm.checks import Quantised, check_fine_operands, check_k_groups, check_output
from threefs.compute_kernels.deep_gemm.layout import (
    K_BLOCK,
    ceil_div,
    even_rounds,
    get_col_major_tma_aligned_tensor,
    set_addend,
    sms_limit,
    sms_of,
)
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import KernelSource, Launch, Wgmma, loaded, replay
from threefs.compute_kernels.jit.driver import TensorMap, tensor_map_at

__all__ = [
    "groups_held",
    "k_grouped_fp8_gemm_nt_contiguous",
    "k_grouped_wgrad_gemm_fp8_fp8_fp32_nt",
    "reference_wgrad",
    "splits_tail",
    "wgrad_gemm_fp8_fp8_fp32_nt",
    "wgrad_source",
]

_FILE = Path(__file__).with_name("fp8_wgrad.cu")
_BLOCK_M, _BLOCK_N, _STAGES, _GROUPS_MAX = 256, 128, 4, 64
_STRIP = (_BLOCK_N, 8)  # columns, rows of the output that are asked for with each K block
_PIECE, _PIECES = (32, 8), 3  # columns, rows that the copy engine adds at once, and how many of a warp are on their way
_SHARED_BYTES = _STAGES * ((_BLOCK_M + _BLOCK_N) * (K_BLOCK + 4) + 16) + 8 * _PIECES * _PIECE[0] * _PIECE[1] * 4


@lru_cache(maxsize=8)
def wgrad_source(groups: int, split_tail: bool = False) -> KernelSource:
    """`groups`: how many the arguments hold; a power of two up to 64. `split_tail`: see `splits_tail`."""
    constants = {
        "BLOCK_N": _BLOCK_N,
        "MATH_GROUPS": 2,
        "WAVES": 2,
        "STAGES": _STAGES,
        "CLUSTER": 1,
        "SHARE_A": 1,
        "SPLIT_K": 1,
        "TURNS": 1,
        "LAYOUT": 0,
        "GROUPS": groups,
        "SPLIT_TAIL": int(split_tail),
    }
    return KernelSource(_FILE, "fp8_wgrad", tuple(constants.items()), (Wgmma("e4m3", _BLOCK_N),))


def groups_held(groups: int) -> int:
    """How many the arguments of a launch for so many groups hold: a power of two, 64 at most."""
    return 1 << (min(groups, _GROUPS_MAX) - 1).bit_length()


@lru_cache(maxsize=8)
def _arguments_type(groups: int) -> type[ctypes.Structure]:
    """`Arguments` of fp8_wgrad.cu for so many groups."""
    one = ctypes.c_char * 128

    class Arguments(ctypes.Structure):
        _fields_ = (
            ("scale_a", one),
            ("scale_b", one),
            ("out", one),
            ("ahead", one),
            ("a", one * groups),
            ("b", one * groups),
            ("first_block", ctypes.c_uint32 * (groups + 1)),
            *((name, ctypes.c_uint32) for name in ("m", "n", "groups", "raster")),
            ("padding", ctypes.c_char * 64),  # the kernel's structure is aligned to 64 bytes
        )

    return Arguments


def _scale_map(scale: torch.Tensor, box: int) -> TensorMap:
    """`scale` is [rows, K blocks] with rows contiguous."""
    rows, blocks = scale.shape
    return tensor_map_at(scale.data_ptr(), scale.dtype, (rows, blocks), (scale.stride(1),), (box, 1), 0)


def splits_tail(tiles: int, k_blocks: int, sms: int) -> bool:
    """Whether the last round has at most a tile for two blocks, so that clusters of two take half of K each.

    Below 16 K blocks a tile the exchange of sums costs as much as is saved.
    """
    return sms % 2 == 0 and 0 < tiles % sms <= sms // 2 and k_blocks >= 16


def _launch(
    a: torch.Tensor, scale_a: torch.Tensor, b: torch.Tensor, scale_b: torch.Tensor, out: torch.Tensor, ks: list[int]
) -> None:
    """Queue the groups, 64 at a time. Values flat, scales [rows, all K blocks] with rows contiguous; all checked."""
    m, n = scale_a.shape[0], scale_b.shape[0]
    sms = sms_of(a.device)
    at = 0
    offsets = list(accumulate(ks, initial=0))
    for start in range(0, len(ks), _GROUPS_MAX):
        part = ks[start : start + _GROUPS_MAX]
        width = groups_held(len(part))
        blocks = [ceil_div(k, K_BLOCK) for k in part]
        values = _arguments_type(width)()
        arguments = _arguments_type(width)
        ctypes.memmove(ctypes.byref(values, arguments.scale_a.offset), _scale_map(scale_a, _BLOCK_M), 128)
        ctypes.memmove(ctypes.byref(values, arguments.scale_b.offset), _scale_map(scale_b, _BLOCK_N), 128)
        at_group = out.data_ptr() + start * m * n * 4
        for field, extent, swizzle in ((arguments.out, _PIECE, 128), (arguments.ahead, _STRIP, 0)):
            encoded = tensor_map_at(at_group, out.dtype, (n, m, len(part)), (n, m * n), (*extent, 1), swizzle)
            ctypes.memmove(ctypes.byref(values, field.offset), encoded, 128)
        for i, k in enumerate(part):
            for maps, tensor, rows, box in ((values.a, a, m, _BLOCK_M), (values.b, b, n, _BLOCK_N)):
                if k:
                    address = tensor.data_ptr() + offsets[start + i] * rows
                    encoded = tensor_map_at(address, tensor.dtype, (k, rows), (k,), (K_BLOCK, box), 128)
                    ctypes.memmove(ctypes.addressof(maps) + i * 128, encoded, 128)
        values.first_block[: len(part) + 1] = list(accumulate(blocks, initial=at))
        values.m, values.n, values.groups, values.raster = m, n, len(part), max(2048 // _BLOCK_M, 1)
        tiles = ceil_div(m, _BLOCK_M) * ceil_div(n, _BLOCK_N) * len(part)
        split = splits_tail(tiles, sum(blocks) // len(part), sms)
        blocks_max = even_rounds(tiles, sms) if len(set(part)) == 1 else min(tiles, sms)
        grid, cluster = (sms, 2) if split else (blocks_max, 1)
        launch = Launch((grid, 1, 1), 384, _SHARED_BYTES, cluster)
        loaded(wgrad_source(width, split)).launch(launch, (values,), a.device)
        at += sum(blocks)


def wgrad_gemm_fp8_fp8_fp32_nt(lhs: Quantised, rhs: Quantised, out: torch.Tensor) -> None:
    """out [m, n] float32 += lhs @ rhs.T, lhs ([m, k], [m, ceil(k / 128)]), rhs ([n, k], [n, ceil(k / 128)])."""

    def first_time() -> bool:
        m, n, k = check_fine_operands(lhs, rhs)
        check_output(out, (m, n), lhs[0].device, torch.float32)
        sms_of(lhs[0].device)
        if m == 0 or n == 0:
            return False
        scale_a, scale_b = (get_col_major_tma_aligned_tensor(side[1]) for side in (lhs, rhs))
        _launch(lhs[0], scale_a, rhs[0], scale_b, out, [k])
        return scale_a is lhs[1] and scale_b is rhs[1]

    replay.run(("wgrad", sms_limit()), (*lhs, *rhs, out), first_time)


def k_grouped_wgrad_gemm_fp8_fp8_fp32_nt(
    lhs: Quantised, rhs: Quantised, out: torch.Tensor, batch_sizes: list[int]
) -> None:
    """out [g, m, n] float32: out[g] += lhs_g @ rhs_g.T for each group g, whose k is `batch_sizes[g]` (0 is allowed).

    lhs values are the groups' [m, k_g] matrices behind each other (flat), its scales [sum of ceil(k_g / 128), m]; rhs
    likewise with n.
    """

    def first_time() -> bool:
        m, n = check_k_groups(lhs, rhs, batch_sizes)
        check_output(out, (len(batch_sizes), m, n), lhs[0].device, torch.float32)
        sms_of(lhs[0].device)
        if not (m and n and any(batch_sizes)):
            return False
        scale_a, scale_b = (get_col_major_tma_aligned_tensor(side[1].t()) for side in (lhs, rhs))
        _launch(lhs[0], scale_a, rhs[0], scale_b, out, batch_sizes)
        return (scale_a.data_ptr(), scale_b.data_ptr()) == (lhs[1].data_ptr(), rhs[1].data_ptr())

    replay.run(("k-grouped wgrad", tuple(batch_sizes), sms_limit()), (*lhs, *rhs, out), first_time)


def k_grouped_fp8_gemm_nt_contiguous(
    a: Quantised,
    b: Quantised,
    d: torch.Tensor,
    ks_cpu: list[int],
    grouped_layout: torch.Tensor | None = None,
    c: torch.Tensor | None = None,
    recipe: tuple[int, int, int] = (1, 1, 128),
    compiled_dims: str = "mn",
) -> None:
    """The current name: d = c + the groups' products. `grouped_layout` (the k's on the device) is not needed here."""
    if recipe != (1, 1, 128):
        raise InvalidInput(f"recipe is {recipe}; the weight gradient takes (1, 1, 128) only")
    if c is not None and c.data_ptr() != d.data_ptr():
        check_output(c, tuple(d.shape), d.device, torch.float32)
    set_addend(d, c)
    k_grouped_wgrad_gemm_fp8_fp8_fp32_nt(a, b, d, ks_cpu)


def reference_wgrad(
    a: torch.Tensor, scale_a: torch.Tensor, b: torch.Tensor, scale_b: torch.Tensor, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """The product of the dequantised inputs, [m, n] in `dtype`; scales are [rows, ceil(k / 128)]."""
    k = a.shape[-1]
    wide_a, wide_b = (
        values.to(dtype) * scale.to(dtype).repeat_interleave(K_BLOCK, 1)[:, :k]
        for values, scale in ((a, scale_a), (b, scale_b))
    )
    return wide_a @ wide_b.T
