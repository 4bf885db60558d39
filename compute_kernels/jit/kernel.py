"""From a `KernelSource` to something that can be launched: memory, disk cache, compiler, in this order.

`build` needs no GPU; `loaded` does. `warmup` builds a list of kernels ahead of time, so that no request pays for
a compilation. Host wrappers call `loaded(source)` at each launch: after the first call it is a dictionary lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from threefs.compute_kernels.jit import cache
from threefs.compute_kernels.jit.compiler import (
    Compiled,
    KernelSource,
    chosen_compiler,
    compile_source,
    compiler_signature,
)
from threefs.compute_kernels.jit.driver import LoadedKernel

__all__ = ["build", "loaded", "warmup"]


def build(source: KernelSource) -> Compiled:
    """The cubin from the disk cache, or compiled now and stored."""
    return _build(source)[0]


def _build(source: KernelSource) -> tuple[Compiled, bool]:
    """`build`, and whether it was compiled now."""
    compiler = chosen_compiler()
    fingerprint = source.fingerprint(compiler_signature(compiler))
    if (found := cache.load(fingerprint)) is not None:
        return found, False
    compiled = compile_source(source, compiler)
    cache.store(fingerprint, compiled)
    return compiled, True


@lru_cache(maxsize=1024)
def loaded(source: KernelSource) -> LoadedKernel:
    """The kernel in the driver, built if need be."""
    return LoadedKernel(source.name, build(source).cubin, source.entry)


def warmup(
    sources: Iterable[KernelSource], threads: int = 4, done: Callable[[KernelSource], None] = lambda _: None
) -> int:
    """Build all of `sources` (NVRTC works in parallel), telling `done` of each; how many were compiled now."""

    def one(source: KernelSource) -> bool:
        _, compiled = _build(source)
        done(source)
        return compiled

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(one, dict.fromkeys(sources)))
