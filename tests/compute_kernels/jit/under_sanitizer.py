"""One small launch for compute-sanitizer to watch: barriers-0 to barriers-3 (see barriers.cu), dense, fp8 or sparse.

Started by test_gpu_sanitizer.py in a process of its own, since a tool is chosen at a process's start.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

from threefs.compute_kernels import flash_mla, jit

__all__ = ["barriers_source"]


def barriers_source(form: int) -> jit.KernelSource:
    return jit.KernelSource(Path(__file__).with_name("barriers.cu"), "barriers", (("FORM", form),))


def _barriers(form: int) -> None:
    out = torch.zeros(256, device="cuda")
    arguments = [ctypes.c_uint64(out.data_ptr())]
    jit.kernel.loaded(barriers_source(form)).launch(jit.Launch((1, 1, 1), 256, 0), arguments, out.device)
    x = torch.arange(256, dtype=torch.float32)
    for _ in range(4):
        # In form 3 the second group reads the first's values of the same round, as in the other forms.
        x = x * 0.5 + x.reshape(2, 128).flip(0, 1).reshape(256)
    assert torch.equal(out.cpu(), x), out


def _decode(fp8: bool, sparse: bool) -> None:
    lengths = torch.tensor([129, 0, 700], dtype=torch.int32, device="cuda")
    table = torch.arange(33, dtype=torch.int32, device="cuda").reshape(3, 11)
    q = torch.randn(3, 1, 64, 576, device="cuda").to(torch.bfloat16)
    cache = torch.randn(33, 64, 1, 576, device="cuda").to(torch.bfloat16)
    if fp8:
        cache = flash_mla.quantise_rows(cache.float())
    indices = torch.randint(-1, 33 * 64, (3, 1, 256), dtype=torch.int32, device="cuda") if sparse else None
    plan, _ = flash_mla.get_mla_metadata()
    out, _ = flash_mla.flash_mla_with_kvcache(
        q, cache, None if sparse else table, None if sparse else lengths, 512, plan, is_fp8_kvcache=fp8, indices=indices
    )
    assert bool(out.isfinite().all())


if __name__ == "__main__":
    case = sys.argv[1]
    if case.startswith("barriers-"):
        _barriers(int(case.removeprefix("barriers-")))
    else:
        _decode(case != "dense", case == "sparse")
    torch.cuda.synchronize()
