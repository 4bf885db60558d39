"""Times the kernels on this machine: `python -m threefs.compute_kernels.bench [PART...]`.

Each figure is the median over replays of a CUDA graph that flushes the L2 (a 512 MiB memset) before each call, less
the time of a graph that only flushes; so it holds no host time. A pause before each figure keeps the power that one
row draws from slowing the next. The two ceilings are measured first: a copy through memory, and cuBLAS's FP8 product
with one scale a tensor. `original` is the time of DeepGEMM 340d988 or FlashMLA c2067be, measured the same way on an
H200; another card needs its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from threefs.compute_kernels import deep_gemm, flash_mla
from threefs.compute_kernels.bench_rows import (
    bf16_rows,
    cast_rows,
    fine_rows,
    fp8_cache_rows,
    group_cost_rows,
    group_weights,
    launch_figures,
    logits_rows,
    sparse_rows,
    wgrad_rows,
)
from threefs.compute_kernels.bench_timing import Row, host_time, row, timed
from threefs.compute_kernels.deep_gemm.tilings import choose_dense
from threefs.compute_kernels.jit import build, require_hopper

__all__ = ["main"]

# (n, k): microseconds of the original at m = 64, 128, 4096
_GEMM = {
    (2112, 7168): (11.1, 11.7, 107.4),
    (24576, 1536): (15.6, 17.7, 229.9),
    (32768, 512): (9.1, 10.1, 142.6),
    (7168, 16384): (38.5, 46.6, 647.9),
    (4096, 7168): (14.8, 16.6, 167.1),
    (7168, 2048): (8.1, 9.1, 93.7),
}
_UNEVEN = (4641, 45118, 1730, 1696)
# lengths, heads, query positions, microseconds of the original
_MLA: tuple[tuple[tuple[int, ...], int, int, float], ...] = (
    ((4096,) * 128, 16, 1, 165.7),
    ((8192,) * 128, 16, 1, 310.7),
    ((4096,) * 128, 32, 1, 164.7),
    ((4096,) * 128, 64, 1, 166.4),
    ((8192,) * 128, 64, 1, 313.5),
    ((4096,) * 128, 128, 1, 243.0),
    ((8192,) * 128, 128, 1, 489.8),
    ((4096,) * 128, 128, 2, 460.5),
    ((8192,) * 128, 128, 2, 924.0),
    ((16384,) * 128, 128, 2, 1984.3),
    (_UNEVEN, 16, 4, 93.0),
    ((65536,), 128, 1, 82.1),
    ((4096,) * 16, 128, 1, 46.6),
)


_HEADER = f"{'kernel':10} {'shape':28} {'us':>9} {'TFLOPS':>8} {'GB/s':>8} {'x orig':>6}"


def ceilings() -> list[Row]:
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    copy = timed(lambda: torch.neg(source, out=target), calls=3)
    rows = [row("copy", "2 GiB read + 2 GiB written", copy, 0.0, 2.0 * source.nbytes)]
    one = torch.ones((), device="cuda")
    for m, n, k in ((4096, 7168, 16384), (4096, 4096, 7168)):
        (a, _), (b, _) = _operands(m, n, k)

        def product(a: torch.Tensor = a, b: torch.Tensor = b) -> torch.Tensor:
            return torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)

        rows.append(row("cuBLAS fp8", f"{m}x{n}x{k}", timed(product), 2.0 * m * n * k, m * k + n * k + 2.0 * m * n))
    return rows


Quantised = tuple[torch.Tensor, torch.Tensor]


def _operands(m: int, n: int, k: int) -> tuple[Quantised, Quantised]:
    return fine_rows(m, k), deep_gemm.per_block_cast_to_fp8(torch.randn(n, k, device="cuda"))


def gemm_rows() -> list[Row]:
    rows = []
    for (n, k), originals in _GEMM.items():
        for m, original in zip((64, 128, 4096), originals, strict=True):
            lhs, rhs = _operands(m, n, k)
            out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
            us = timed(lambda lhs=lhs, rhs=rhs, out=out: deep_gemm.gemm_fp8_fp8_bf16_nt(lhs, rhs, out))  # type: ignore[misc]
            rows.append(row("fp8 dense", f"{m}x{n}x{k}", us, 2.0 * m * n * k, m * k + n * k + 2.0 * m * n, original))
    return rows


def grouped_rows() -> list[Row]:
    rows = []
    for groups, m, n, k in ((4, 8192, 4096, 7168), (4, 8192, 7168, 2048), (8, 4096, 4096, 7168), (8, 4096, 7168, 2048)):
        rhs, lhs = group_weights(groups, n, k), fine_rows(groups * m, k)
        out = torch.empty(groups * m, n, dtype=torch.bfloat16, device="cuda")
        ids = torch.arange(groups, dtype=torch.int32, device="cuda").repeat_interleave(m)

        def contiguous(
            lhs: Quantised = lhs, rhs: Quantised = rhs, out: torch.Tensor = out, ids: torch.Tensor = ids
        ) -> None:
            deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_contiguous(lhs, rhs, out, ids)

        rows_all = float(groups * m)
        bytes_ = rows_all * k + groups * n * k + 2 * rows_all * n
        rows.append(row("contiguous", f"{groups}x{m}x{n}x{k}", timed(contiguous, 4), 2 * rows_all * n * k, bytes_))
    for groups, m, n, k in ((1, 1024, 4096, 7168), (4, 256, 4096, 7168), (1, 1024, 7168, 2048), (4, 256, 7168, 2048)):
        flat = fine_rows(groups * 4096, k)
        values = (
            flat[0].view(groups, 4096, k),
            deep_gemm.get_col_major_tma_aligned_tensor(flat[1].view(groups, 4096, -1)),
        )
        rhs, out = group_weights(groups, n, k), torch.empty(groups, 4096, n, dtype=torch.bfloat16, device="cuda")
        counts = torch.full((groups,), m, dtype=torch.int32, device="cuda")

        def masked(
            values: Quantised = values,
            rhs: Quantised = rhs,
            out: torch.Tensor = out,
            counts: torch.Tensor = counts,
            m: int = m,
        ) -> None:
            deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_masked(values, rhs, out, counts, m)

        rows_all = float(groups * m)
        bytes_ = rows_all * k + groups * n * k + 2 * rows_all * n
        rows.append(row("masked", f"{groups}x{m}x{n}x{k}", timed(masked), 2 * rows_all * n * k, bytes_))
    return rows


def mla_rows() -> list[Row]:
    rows = []
    for lengths, heads, s_q, original in _MLA:
        batch, pages = len(lengths), [-(-length // 64) for length in lengths]
        q = (torch.randn(batch, s_q, heads, 576, device="cuda") / 10).to(torch.bfloat16)
        cache = torch.empty(sum(pages), 64, 1, 576, dtype=torch.bfloat16, device="cuda").normal_(std=0.1)
        order = torch.randperm(sum(pages), device="cuda").int()
        table = torch.zeros(batch, max(pages), dtype=torch.int32, device="cuda")
        for i, (first, count) in enumerate(zip(accumulate(pages, initial=0), pages, strict=False)):
            table[i, :count] = order[first : first + count]
        seqlens = torch.tensor(lengths, dtype=torch.int32, device="cuda")
        plans: list[Any] = [("mla decode", *flash_mla.get_mla_metadata(seqlens, s_q * heads, 1))]
        if batch <= 16:  # requests in pieces
            plans.append(("mla fused", *flash_mla.get_mla_metadata(fused_combine=True)))
        keys = float(sum(lengths))
        shape = f"b{batch} s{lengths[0] if lengths != _UNEVEN else 'uneven'} h{heads} q{s_q}"
        operations, bytes_ = 2.0 * heads * s_q * keys * 1088, keys * 1152 + 2.0 * batch * heads * s_q * 1088
        for name, plan, splits in plans:
            decode = partial(flash_mla.flash_mla_with_kvcache, q, cache, table, seqlens, 512, plan, splits)
            rows.append(row(name, shape, timed(decode, 5, 3), operations, bytes_, original))
    return rows


def start_figures() -> dict[str, float]:
    """Milliseconds to compile and to read from the cache, microseconds of Python for one launch."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["THREEFS_KERNEL_CACHE"] = folder
        source = choose_dense(4096, 7168, 16384, 132).source(0)
        for name in ("compile_ms", "cached_ms"):
            began = time.perf_counter()
            build(source)
            figures[name] = (time.perf_counter() - began) * 1000
        lhs, rhs = _operands(64, 2112, 7168)
        out = torch.empty(64, 2112, dtype=torch.bfloat16, device="cuda")
        figures["launch_us"] = host_time(lambda: deep_gemm.gemm_fp8_fp8_bf16_nt(lhs, rhs, out))
        figures |= launch_figures()
    return figures


_PARTS = {
    "gemm": gemm_rows,
    "grouped": grouped_rows,
    "groups": group_cost_rows,
    "bf16": bf16_rows,
    "casts": cast_rows,
    "wgrad": wgrad_rows,
    "logits": logits_rows,
    "mla": mla_rows,
    "fp8": fp8_cache_rows,
    "sparse": sparse_rows,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="3fs bench kernels", description="Time the GPU kernels on this machine.")
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, "start", []], help="default: all")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    options = parser.parse_args(arguments)
    require_hopper(0)
    parts = options.parts or [*_PARTS, "start"]
    print(f"{torch.cuda.get_device_name(0)}\n{_HEADER}")
    rows: list[Row] = []
    for name, measure in (("", ceilings), *_PARTS.items()):
        if not name or name in parts:
            found = measure()
            print(*(row.line() for row in found), sep="\n", flush=True)
            rows += found
    figures = start_figures() if "start" in parts else {}
    print(*(f"{name} {value:.1f}" for name, value in figures.items()), sep="\n")
    if options.json:
        options.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "start": figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
