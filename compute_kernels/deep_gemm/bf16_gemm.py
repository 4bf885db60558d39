"""bf16 matrix product with float32 sums: D = op(A) @ op(B).T, dense and grouped.

Formula. D[i, j] = sum over k of A[i, k] * B[j, k]; either operand may lie contiguous along k or along its other axis.
Work: 2 m n k operations. Bytes: 2 (m k + n k + m n). The tensor cores bound it from some hundred rows on.

Layouts as in `fp8_gemm`: dense; contiguous groups of rows (each from a multiple of 128); masked `[groups, m_max, k]`.
Limits of a tile: 256 columns and 64 rows a warpgroup (128 float32 registers a thread), four stages of K steps of 64.
`compiled_dims` is an argument of DeepGEMM's; shapes are never compiled in here, so it means nothing.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from threefs.compute_kernels.deep_gemm.checks import (
    check_bf16_k_groups,
    check_bf16_operands,
    check_groups,
    check_output,
)
from threefs.compute_kernels.deep_gemm.group_ids import groups_of_ends
from threefs.compute_kernels.deep_gemm.layout import (
    ceil_div,
    contiguous_alignment,
    even_rounds,
    set_addend,
    sms_limit,
    sms_of,
)
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import KernelSource, Launch, Wgmma, loaded, replay, tensor_map
from threefs.compute_kernels.jit.driver import SHARED_MEMORY_BYTES_MAX

__all__ = [
    "Bf16Tiling",
    "bf16_gemm_nn",
    "bf16_gemm_nt",
    "bf16_gemm_tn",
    "bf16_gemm_tt",
    "choose_bf16",
    "k_grouped_bf16_gemm_tn_contiguous",
    "m_grouped_bf16_gemm_nt_contiguous",
    "m_grouped_bf16_gemm_nt_masked",
    "reference_bf16_gemm",
]

_DENSE, _CONTIGUOUS, _MASKED, _K_GROUPED = 0, 1, 2, 3
_FILE = Path(__file__).with_name("bf16_gemm.cu")
_K_STEP = 64


@dataclass(frozen=True)
class Bf16Tiling:
    """A tile is 64 x math_groups rows by block_n columns, worked on in K steps of 64."""

    block_n: int
    math_groups: int = 2
    stages: int = 4

    @property
    def block_m(self) -> int:
        return 64 * self.math_groups

    def shared_bytes(self, groups: int = 0) -> int:
        stage = (self.block_m + self.block_n) * _K_STEP * 2
        return self.stages * (stage + 16) + self.math_groups * 4 * 16 * 144 + (groups + 1) * 4

    def source(self, layout: int, *, a_mn: bool = False, b_mn: bool = False, out_float: bool = False) -> KernelSource:
        return _source(self, layout, a_mn, b_mn, out_float)


# (math_groups, block_n, relative time of an operation): wide tiles read each operand less often
_FAMILIES = (
    (2, 256, 1.0),
    (2, 192, 1.05),
    (2, 176, 1.08),
    (2, 128, 1.15),
    (2, 64, 1.5),
    (1, 256, 1.3),
    (1, 128, 1.5),
    (1, 64, 2.0),
)


def _tile_count(m: int, n: int, block_m: int, block_n: int, layout: int, groups: int) -> int:
    return ceil_div(m, block_m) * ceil_div(n, block_n) * (groups if layout in (_MASKED, _K_GROUPED) else 1)


def choose_bf16(m: int, n: int, layout: int, num_sms: int, groups: int = 1, *, b_mn: bool = False) -> Bf16Tiling:
    """Fewest waves times area times the family's loss.

    Contiguous groups need tiles of at most 128 rows, a B that is contiguous along n whole boxes of 64 columns.
    """

    def cost(family: tuple[int, int, float]) -> float:
        math_groups, block_n, loss = family
        tiles = _tile_count(m, n, 64 * math_groups, block_n, layout, groups)
        return ceil_div(tiles, num_sms) * math_groups * block_n * loss

    rows_max = contiguous_alignment() if layout == _CONTIGUOUS else 128
    families = (f for f in _FAMILIES if 64 * f[0] <= rows_max and not (b_mn and f[1] % 64))
    math_groups, block_n, _ = min(families, key=cost)
    for stages in (8, 7, 6, 5, 4, 3):
        tiling = Bf16Tiling(block_n, math_groups, stages)
        if tiling.shared_bytes(groups) <= SHARED_MEMORY_BYTES_MAX:
            return tiling
    raise InvalidInput(f"{groups} groups do not fit beside a tile; use at most 4096")


@lru_cache(maxsize=1024)
def _source(tiling: Bf16Tiling, layout: int, a_mn: bool, b_mn: bool, out_float: bool) -> KernelSource:
    constants = {
        "BLOCK_N": tiling.block_n,
        "MATH_GROUPS": tiling.math_groups,
        "WAVES": 1,
        "STAGES": tiling.stages,
        "CLUSTER": 1,
        "SHARE_A": 1,
        "SPLIT_K": 1,
        "BLOCKS_PER_SM": 1,
        "A_MN": int(a_mn),
        "B_MN": int(b_mn),
        "OUT_FLOAT": int(out_float),
        "LAYOUT": layout,
    }
    shape = Wgmma("bf16", tiling.block_n, a_transposed=a_mn, b_transposed=b_mn)
    return KernelSource(_FILE, "bf16_gemm", tuple(constants.items()), (shape,))


def _launch(
    layout: int,
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    groups: torch.Tensor | None,
    a_mn: bool,
    b_mn: bool,
    k_groups: int = 0,
) -> None:
    """Queue the kernel. `a` is [.., m, k] or, if `a_mn`, [k, m]; `b` is [.., n, k] or [k, n]. Checked already."""
    m, k = (a.shape[-1], a.shape[-2]) if a_mn else (a.shape[-2], a.shape[-1])
    n = b.shape[-1] if b_mn else b.shape[-2]
    count = k_groups or (b.shape[0] if b.dim() == 3 else 1)
    sms = sms_of(a.device)
    tiling = choose_bf16(m, n, layout, sms, count, b_mn=b_mn)
    all_rows = m * count if layout == _MASKED else m
    map_a = (
        tensor_map(a, (m, k), (m,), (64, _K_STEP))
        if a_mn
        else tensor_map(a, (k, all_rows), (k,), (_K_STEP, tiling.block_m))
    )
    map_b = (
        tensor_map(b, (n, k), (n,), (64, _K_STEP))
        if b_mn
        else tensor_map(b, (k, n * count), (k,), (_K_STEP, tiling.block_n))
    )
    tiles = _tile_count(m, n, tiling.block_m, tiling.block_n, layout, count)
    pointers = (out.data_ptr(), 0 if groups is None else groups.data_ptr())
    numbers = (m, n, k, count, max(2048 // tiling.block_m, 1))
    source = tiling.source(layout, a_mn=a_mn, b_mn=b_mn, out_float=out.dtype == torch.float32)
    blocks = even_rounds(tiles, sms) if layout == _DENSE else min(tiles, sms)
    launch = Launch((blocks, 1, 1), 128 * (tiling.math_groups + 1), tiling.shared_bytes(count))
    arguments = (*map(ctypes.c_uint64, pointers), *map(ctypes.c_int, numbers))
    loaded(source).launch(launch, (map_a, map_b, *arguments), a.device)


def _dense(a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, c: torch.Tensor | None, a_mn: bool, b_mn: bool) -> None:
    if c is not None:
        if d.dtype != torch.float32:
            raise InvalidInput("c is given; a bf16 output cannot accumulate, pass c=None or a float32 d")
        check_output(c, tuple(d.shape), d.device, torch.float32)

    def first_time() -> bool:
        m, n, _ = check_bf16_operands(a, b, a_mn=a_mn, b_mn=b_mn)
        check_output(d, (m, n), a.device, torch.float32 if d.dtype == torch.float32 else torch.bfloat16)
        sms_of(a.device)
        if m == 0 or n == 0:
            return False
        if d.dtype == torch.float32:
            set_addend(d, c)
        _launch(_DENSE, a, b, d, None, a_mn, b_mn)
        return d.dtype != torch.float32 or kept

    kept = c is not None and c.data_ptr() == d.data_ptr()
    replay.run(("bf16", a_mn, b_mn, c is None, kept, sms_limit()), (a, b, d), first_time)


def bf16_gemm_nt(
    a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, c: torch.Tensor | None = None, compiled_dims: str = "nk"
) -> None:
    """d [m, n] = a [m, k] @ b [n, k].T. d is bf16, or float32 and then `c + a @ b.T` if c is given."""
    _dense(a, b, d, c, False, False)


def bf16_gemm_nn(
    a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, c: torch.Tensor | None = None, compiled_dims: str = "nk"
) -> None:
    """d [m, n] = a [m, k] @ b [k, n]."""
    _dense(a, b, d, c, False, True)


def bf16_gemm_tn(
    a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, c: torch.Tensor | None = None, compiled_dims: str = "nk"
) -> None:
    """d [m, n] = a [k, m].T @ b [k, n]."""
    _dense(a, b, d, c, True, True)


def bf16_gemm_tt(
    a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, c: torch.Tensor | None = None, compiled_dims: str = "nk"
) -> None:
    """d [m, n] = a [k, m].T @ b [n, k].T."""
    _dense(a, b, d, c, True, False)


def m_grouped_bf16_gemm_nt_contiguous(
    a: torch.Tensor,
    b: torch.Tensor,
    d: torch.Tensor,
    grouped_layout: torch.Tensor,
    compiled_dims: str = "nk",
    use_psum_layout: bool = False,
    ensure_zero_padding: bool = True,
    expected_m_for_psum_layout: int | None = None,
) -> None:
    """d [m, n] bf16 = each row of a [m, k] times the matrix of its group, b [g, n, k].

    `grouped_layout` int32 [m] names each row's group; groups start at multiples of 128 (or of
    64, see `set_mk_alignment_for_contiguous_layout`), a block that starts with -1 is left untouched. With
    `use_psum_layout` it is int32 [g] and says where each group ends.
    """
    if use_psum_layout:
        grouped_layout = groups_of_ends(grouped_layout, a.shape[0], b.shape[0])

    def first_time() -> bool:
        m, n, _ = check_bf16_operands(a, b, rhs_dims=3)
        check_output(d, (m, n), a.device)
        check_groups("grouped_layout", grouped_layout, m, a.device)
        sms_of(a.device)
        if m and n:
            _launch(_CONTIGUOUS, a, b, d, grouped_layout, False, False)
        return True

    replay.run(("bf16 contiguous", contiguous_alignment(), sms_limit()), (a, b, d, grouped_layout), first_time)


def m_grouped_bf16_gemm_nt_masked(
    a: torch.Tensor,
    b: torch.Tensor,
    d: torch.Tensor,
    masked_m: torch.Tensor,
    expected_m: int,
    compiled_dims: str = "nk",
) -> None:
    """d [g, m_max, n] bf16: the first `masked_m[g]` rows of each group of a [g, m_max, k] times b [g, n, k]."""

    def first_time() -> bool:
        m, n, _ = check_bf16_operands(a, b, lhs_dims=3, rhs_dims=3)
        check_output(d, (a.shape[0], m, n), a.device)
        check_groups("masked_m", masked_m, a.shape[0], a.device)
        if expected_m < 0:
            raise InvalidInput(f"expected_m is {expected_m}; it must be 0 or more")
        sms_of(a.device)
        if m and n and a.shape[0]:
            _launch(_MASKED, a, b, d, masked_m, False, False)
        return True

    replay.run(("bf16 masked", expected_m, sms_limit()), (a, b, d, masked_m), first_time)


def k_grouped_bf16_gemm_tn_contiguous(
    a: torch.Tensor,
    b: torch.Tensor,
    d: torch.Tensor,
    ks: list[int],
    ks_tensor: torch.Tensor,
    c: torch.Tensor | None = None,
    compiled_dims: str = "mn",
) -> None:
    """d [g, m, n] float32: d[g] = c[g] + a_g.T @ b_g; the groups' a_g [k_g, m] and b_g [k_g, n] lie behind each other.

    Each k_g is a multiple of 64, which is one stage of the kernel, and may be 0. `ks_tensor` int32 holds the k_g on the
    device; what is queued depends on `ks` through its sum and length only.
    """
    m, n = check_bf16_k_groups(a, b, ks, _K_STEP)
    check_output(d, (len(ks), m, n), a.device, torch.float32)
    check_groups("ks_tensor", ks_tensor, len(ks), a.device)
    if c is not None:
        check_output(c, (len(ks), m, n), a.device, torch.float32)
    sms_of(a.device)
    set_addend(d, c)

    def first_time() -> bool:
        _launch(_K_GROUPED, a, b, d, ks_tensor, True, True, len(ks))
        return True

    if m and n and sum(ks):
        replay.run(("bf16 k-grouped", len(ks), sms_limit()), (a, b, d, ks_tensor), first_time)


def reference_bf16_gemm(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """a [m, k] @ b [n, k].T in `dtype`."""
    return a.to(dtype) @ b.to(dtype).T
