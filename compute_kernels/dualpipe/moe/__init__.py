"""A small mixture-of-experts transformer whose forward and backward passes hide each other's communication."""

from threefs.compute_kernels.dualpipe.moe.layer import MoEConfig
from threefs.compute_kernels.dualpipe.moe.stage import MoEStage

__all__ = ["MoEConfig", "MoEStage"]
