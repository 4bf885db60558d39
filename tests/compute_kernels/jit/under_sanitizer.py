"""One small launch for compute-sanitizer to watch: barriers-0 to barriers-3 (see barriers.cu; with -third, three
warpgroups), dense, fp8, sparse, pages (the cache that is multiplied in FP8) or prefill; with -waiting behind it,
arrivals at named barriers are waits.

Started by test_gpu_sanitizer.py in a process of its own, since a tool is chosen at a process's start.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from threefs.compute_kernels import flash_mla, jit
from threefs.compute_kernels.flash_mla import dense_decode, fp8_decode, gather_decode

__all__ = ["barriers_source"]


def barriers_source(form: int) -> jit.KernelSource:
    return jit.KernelSource(Path(__file__).with_name("barriers.cu"), "barriers", (("FORM", form),))


def _waiting(source: jit.KernelSource) -> jit.driver.LoadedKernel:
    return jit.loaded(replace(source, constants=(*source.constants, ("ARRIVALS_WAIT", 1))))


def _barriers(form: int, threads: int, loaded: Callable[[jit.KernelSource], jit.driver.LoadedKernel]) -> None:
    out = torch.zeros(256, device="cuda")
    arguments = [ctypes.c_uint64(out.data_ptr())]
    loaded(barriers_source(form)).launch(jit.Launch((1, 1, 1), threads, 0), arguments, out.device)
    x = torch.arange(256, dtype=torch.float32)
    for _ in range(4):
        # In form 3 the second group reads the first's values of the same round, as in the other forms.
        x = x * 0.5 + x.reshape(2, 128).flip(0, 1).reshape(256)
    assert torch.equal(out.cpu(), x), out


def _attention(case: str) -> None:
    lengths = torch.tensor([129, 0, 700], dtype=torch.int32, device="cuda")
    table = torch.arange(33, dtype=torch.int32, device="cuda").reshape(3, 11)
    q = torch.randn(3, 1, 64, 576, device="cuda").to(torch.bfloat16)
    cache = torch.randn(33, 64, 1, 576, device="cuda").to(torch.bfloat16)
    indices = torch.randint(-1, 33 * 64, (3, 1, 256), dtype=torch.int32, device="cuda")
    if case == "prefill":
        out, _, _ = flash_mla.flash_mla_sparse_fwd(q[:, 0], cache.view(-1, 1, 576), indices, 576**-0.5)
    else:
        if case != "dense":
            cache = (flash_mla.quantise_pages if case == "pages" else flash_mla.quantise_rows)(cache.float())
        plan, _ = flash_mla.get_mla_metadata()
        sparse = case == "sparse"
        where = (None, None) if sparse else (table, lengths)
        out, _ = flash_mla.flash_mla_with_kvcache(
            q, cache, *where, 512, plan, is_fp8_kvcache=case != "dense", indices=indices if sparse else None
        )
    assert bool(out.isfinite().all())


if __name__ == "__main__":
    case, loaded = sys.argv[1], jit.loaded
    if case.endswith("-waiting"):
        case, loaded = case.removesuffix("-waiting"), _waiting
        for module in (dense_decode, fp8_decode, gather_decode):
            module.loaded = _waiting
    if case.startswith("barriers-"):
        form, _, third = case.removeprefix("barriers-").partition("-")
        _barriers(int(form), 384 if third else 256, loaded)
    else:
        _attention(case)
    torch.cuda.synchronize()
