"""MLA attention for Hopper GPUs under FlashMLA's names and signatures.

Paged decode over bf16, fp16 and FP8 caches, dense or sparse; sparse prefill.
"""

from threefs.compute_kernels.flash_mla.api import FlashMLASchedMeta, flash_mla_with_kvcache, get_mla_metadata
from threefs.compute_kernels.flash_mla.fp8_api import flash_mla_sparse_fwd
from threefs.compute_kernels.flash_mla.fp8_decode import dequantise_pages, quantise_pages
from threefs.compute_kernels.flash_mla.gather_decode import dequantise_rows, quantise_rows

__all__ = [
    "FlashMLASchedMeta",
    "dequantise_pages",
    "dequantise_rows",
    "flash_mla_sparse_fwd",
    "flash_mla_with_kvcache",
    "get_mla_metadata",
    "quantise_pages",
    "quantise_rows",
]
