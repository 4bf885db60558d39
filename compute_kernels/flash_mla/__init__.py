"""MLA attention for Hopper GPUs under FlashMLA's names and signatures: paged dense decode, bf16 and fp16."""

from threefs.compute_kernels.flash_mla.api import FlashMLASchedMeta, flash_mla_with_kvcache, get_mla_metadata

__all__ = ["FlashMLASchedMeta", "flash_mla_with_kvcache", "get_mla_metadata"]
