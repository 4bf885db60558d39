"""The public products: check, choose a tiling, launch. Nothing here waits for the device.

Names and arguments of DeepGEMM's first release; `current` has those of today.
"""

from __future__ import annotations

import torch

from threefs.compute_kernels.deep_gemm.checks import Quantised, check_fp8_operands, check_groups, check_output
from threefs.compute_kernels.deep_gemm.fp8_gemm import CONTIGUOUS, DENSE, MASKED, launch_gemm
from threefs.compute_kernels.deep_gemm.layout import (
    contiguous_alignment,
    get_col_major_tma_aligned_tensor,
    sms_limit,
    sms_of,
)
from threefs.compute_kernels.deep_gemm.tilings import choose_contiguous, choose_dense, choose_masked
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import replay

__all__ = [
    "gemm_fp8_fp8_bf16_nt",
    "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous",
    "m_grouped_gemm_fp8_fp8_bf16_nt_masked",
]


def gemm_fp8_fp8_bf16_nt(lhs: Quantised, rhs: Quantised, out: torch.Tensor) -> None:
    """out [m, n] bf16 = lhs @ rhs.T.

    lhs is ([m, k], [m, ceil(k / 128)]), rhs is ([n, k], [ceil(n / 128), ceil(k / 128)]): values, scales. Values
    are e4m3, scales float32. n must be a multiple of 8, k of 16. lhs scales are brought into the copy engine's layout
    unless they already have it (`get_col_major_tma_aligned_tensor`).
    """

    def first_time() -> bool:
        m, n, k = check_fp8_operands(lhs, rhs, lhs_dims=2, rhs_dims=2)
        check_output(out, (m, n), lhs[0].device)
        sms = sms_of(lhs[0].device)
        if m == 0 or n == 0:
            return False
        scale_a = get_col_major_tma_aligned_tensor(lhs[1])
        launch_gemm(choose_dense(m, n, k, sms), DENSE, lhs[0], scale_a, *rhs, out, None, sms)
        return scale_a is lhs[1]

    replay.run(("dense", sms_limit()), (*lhs, *rhs, out), first_time)


def m_grouped_gemm_fp8_fp8_bf16_nt_contiguous(
    lhs: Quantised, rhs: Quantised, out: torch.Tensor, m_indices: torch.Tensor
) -> None:
    """out [m, n] = each row of lhs [m, k] times the matrix of its group, rhs ([g, n, k], ...).

    `m_indices` int32 [m] names each row's group. A group's rows start at a multiple of 128 (or of 64, see
    `set_mk_alignment_for_contiguous_layout`) and the first row of each such block decides for all of them; blocks that
    start with -1 are left untouched.
    """

    def first_time() -> bool:
        m, n, _ = check_fp8_operands(lhs, rhs, lhs_dims=2, rhs_dims=3)
        check_output(out, (m, n), lhs[0].device)
        check_groups("m_indices", m_indices, m, lhs[0].device)
        sms = sms_of(lhs[0].device)
        if m == 0 or n == 0:
            return False
        scale_a = get_col_major_tma_aligned_tensor(lhs[1])
        tiling = choose_contiguous(m, n, sms, contiguous_alignment(), rhs[0].shape[0])
        launch_gemm(tiling, CONTIGUOUS, lhs[0], scale_a, *rhs, out, m_indices, sms)
        return scale_a is lhs[1]

    replay.run(("contiguous", contiguous_alignment(), sms_limit()), (*lhs, *rhs, out, m_indices), first_time)


def m_grouped_gemm_fp8_fp8_bf16_nt_masked(
    lhs: Quantised, rhs: Quantised, out: torch.Tensor, masked_m: torch.Tensor, expected_m: int
) -> None:
    """out [g, m_max, n]: the first `masked_m[g]` rows of each group of lhs [g, m_max, k] times rhs [g, n, k].

    The counts stay on the device, so the call can sit in a CUDA graph; `expected_m` is a guess of the mean that
    picks the tile. Rows past a group's count are left untouched.
    """

    def first_time() -> bool:
        m, n, k = check_fp8_operands(lhs, rhs, lhs_dims=3, rhs_dims=3)
        groups = lhs[0].shape[0]
        check_output(out, (groups, m, n), lhs[0].device)
        check_groups("masked_m", masked_m, groups, lhs[0].device)
        if expected_m < 0:
            raise InvalidInput(f"expected_m is {expected_m}; it must be 0 or more")
        sms = sms_of(lhs[0].device)
        if m == 0 or n == 0 or groups == 0:
            return False
        scale_a = get_col_major_tma_aligned_tensor(lhs[1])
        tiling = choose_masked(groups, expected_m, n, k, sms)
        launch_gemm(tiling, MASKED, lhs[0], scale_a, *rhs, out, masked_m, sms)
        return scale_a is lhs[1]

    replay.run(("masked", expected_m, sms_limit()), (*lhs, *rhs, out, masked_m), first_time)
