"""FP8 matrix products with fine-grained scales for Hopper GPUs, under DeepGEMM's names and signatures."""

from threefs.compute_kernels.deep_gemm.api import (
    fp8_gemm_nt,
    gemm_fp8_fp8_bf16_nt,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_gemm_fp8_fp8_bf16_nt_contiguous,
    m_grouped_gemm_fp8_fp8_bf16_nt_masked,
)
from threefs.compute_kernels.deep_gemm.casts import calc_diff, per_block_cast_to_fp8, per_token_cast_to_fp8
from threefs.compute_kernels.deep_gemm.layout import (
    ceil_div,
    get_col_major_tma_aligned_tensor,
    get_m_alignment_for_contiguous_layout,
    get_num_sms,
    get_tma_aligned_size,
    set_num_sms,
)

cell_div = ceil_div  # the first release's spelling

__all__ = [
    "calc_diff",
    "ceil_div",
    "cell_div",
    "fp8_gemm_nt",
    "gemm_fp8_fp8_bf16_nt",
    "get_col_major_tma_aligned_tensor",
    "get_m_alignment_for_contiguous_layout",
    "get_num_sms",
    "get_tma_aligned_size",
    "m_grouped_fp8_gemm_nt_contiguous",
    "m_grouped_fp8_gemm_nt_masked",
    "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous",
    "m_grouped_gemm_fp8_fp8_bf16_nt_masked",
    "per_block_cast_to_fp8",
    "per_token_cast_to_fp8",
    "set_num_sms",
]
