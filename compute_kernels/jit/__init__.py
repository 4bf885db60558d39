"""Compiles, caches, loads and launches the CUDA kernels of this package. See `kernel` for the way through it."""

from threefs.compute_kernels.jit.compiler import Compiled, KernelSource, compile_source
from threefs.compute_kernels.jit.driver import Launch, require_hopper, tensor_map
from threefs.compute_kernels.jit.kernel import build, loaded, warmup
from threefs.compute_kernels.jit.wgmma import Wgmma

__all__ = [
    "Compiled",
    "KernelSource",
    "Launch",
    "Wgmma",
    "build",
    "compile_source",
    "loaded",
    "require_hopper",
    "tensor_map",
    "warmup",
]
