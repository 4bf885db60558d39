"""Compiles kernels ahead of time: `3fs warmup [PART...]`, or `python -m threefs.compute_kernels.warmup`.

A kernel takes 0.2 to 3 s when it is first needed. This compiles those of a model into the cache, in the build of an
image or before a service starts. It needs no GPU: which kernels a call takes follows from shapes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from threefs.compute_kernels.deep_gemm import casts, fp8_gemm, fp8_wgrad, group_ids, logits_plan, mqa_logits, tilings
from threefs.compute_kernels.errors import KernelError
from threefs.compute_kernels.flash_mla import dense_decode, fp8_decode, gather_decode, plan
from threefs.compute_kernels.jit import KernelSource, warmup
from threefs.compute_kernels.jit.cache import cache_folder

__all__ = ["PARTS", "main", "sources"]

_SHAPES = (
    "2112x7168",
    "24576x1536",
    "32768x512",
    "7168x16384",
    "4096x7168",
    "7168x2048",
)  # n x k of DeepSeek V3 and R1
_DTYPES = (torch.bfloat16, torch.float16)


def _rows(most: int) -> Iterator[int]:
    """Numbers of rows between which tilings change, up to `most`."""
    yield from (1, 64, 65, 128)
    yield from range(256, most + 128, 128)


def _shapes(options: argparse.Namespace) -> list[tuple[int, int]]:
    return [(int(n), int(k)) for n, k in (shape.split("x") for shape in options.shape or _SHAPES)]


def _decode(options: argparse.Namespace) -> Iterator[KernelSource]:
    box, pieces = min(options.page, plan.KEYS), (0, plan.PIECE_BLOCKS)
    yield from (plan.plan_source(), plan.fixed_plan_source())
    for dtype in _DTYPES:
        yield from (dense_decode.decode_source(box, dtype, piece) for piece in pieces)
        yield dense_decode.decode_source(box, dtype, 0, fused=True)
        yield from (dense_decode.combine_source(dtype, *how) for how in ((1,), (8,), (8, True)))


def _fp8(options: argparse.Namespace) -> Iterator[KernelSource]:
    box = min(options.page, plan.KEYS)
    for tile in (16, 32, 64):
        yield from (fp8_decode.fp8_decode_source(tile, box, piece) for piece in (0, plan.PIECE_BLOCKS))
    yield from (dense_decode.combine_source(torch.bfloat16, *how, scaled=False) for how in ((1,), (8,), (8, True)))
    yield from (plan.plan_source(), plan.fixed_plan_source())


def _sparse(_: argparse.Namespace) -> Iterator[KernelSource]:
    yield from (gather_decode.gather_source(0, causal=causal) for causal in (False, True))
    yield from (gather_decode.gather_source(1), gather_decode.gather_source(2), gather_decode.gather_source(2, 8))
    yield from (dense_decode.combine_source(torch.bfloat16, teams) for teams in (1, 8))
    yield plan.plan_source()


def _dense(options: argparse.Namespace) -> Iterator[KernelSource]:
    for n, k in _shapes(options):
        yield from (tilings.choose_dense(m, n, k, options.sms).source(fp8_gemm.DENSE) for m in _rows(options.rows))


def _grouped(options: argparse.Namespace) -> Iterator[KernelSource]:
    groups = options.groups
    yield group_ids.group_ids_source()
    for n, k in _shapes(options):
        for m in _rows(options.rows):
            yield tilings.choose_contiguous(m, n, options.sms, 128, groups).source(fp8_gemm.CONTIGUOUS)
            yield tilings.choose_masked(groups, m, n, k, options.sms).source(fp8_gemm.MASKED)


def _casts(_: argparse.Namespace) -> Iterator[KernelSource]:
    yield from (casts.cast_source(dtype, rows) for dtype in (*_DTYPES, torch.float32) for rows in (1, 128))


def _wgrad(options: argparse.Namespace) -> Iterator[KernelSource]:
    for groups in {1, fp8_wgrad.groups_held(options.groups)}:
        yield from (fp8_wgrad.wgrad_source(groups, split) for split in (False, True))


def _logits(_: argparse.Namespace) -> Iterator[KernelSource]:
    yield logits_plan.logits_plan_source()
    for heads in (32, 64):
        yield mqa_logits.mqa_source(heads, 256 // heads, 128, False)
        yield from (mqa_logits.mqa_source(heads, queries, 128, True) for queries in (1, 2))


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[KernelSource]]] = {
    "decode": _decode,
    "fp8": _fp8,
    "sparse": _sparse,
    "dense": _dense,
    "grouped": _grouped,
    "casts": _casts,
    "wgrad": _wgrad,
    "logits": _logits,
}


def sources(arguments: list[str]) -> list[KernelSource]:
    """The kernels that the command line `arguments` asks for, each once."""
    return _wanted(_parser().parse_args(arguments))


def _wanted(options: argparse.Namespace) -> list[KernelSource]:
    found: Iterable[KernelSource] = (one for part in options.parts or PARTS for one in PARTS[part](options))
    return list(dict.fromkeys(found))


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no part; it may be {', '.join(PARTS)}")
    return text


def _shape(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; it must be NxK, as 7168x2048")
    return text


def _page(text: str) -> int:
    page = int(text) if text.isdigit() else 0
    if page < 16 or page & (page - 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no page; it must be a power of two from 16 up")
    return page


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be 1 or more")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="3fs warmup",
        description="Compile GPU kernels into the cache, before they are needed. No GPU is needed here.",
        epilog="The cache is where THREEFS_KERNEL_CACHE says; the machines that run the kernels may share it.",
    )
    parser.add_argument("parts", nargs="*", type=_part, metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--shape", action="append", type=_shape, help="NxK of a weight; again for more (default: V3's)")
    parser.add_argument("--rows", type=_count, default=4096, help="the most rows of a product (default: 4096)")
    parser.add_argument("--groups", type=_count, default=8, help="experts on a GPU (default: 8)")
    parser.add_argument("--page", type=_page, default=64, help="keys of a page of the cache (default: 64)")
    parser.add_argument("--sms", type=_count, default=132, help="multiprocessors that products use (default: 132)")
    parser.add_argument("--threads", type=_count, default=os.cpu_count() or 1, help="default: as many as processors")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Compile what is missing, with a bar on a terminal; the exit code is 0, or the compiler's error is raised."""
    options = _parser().parse_args(arguments)
    wanted, began = _wanted(options), time.perf_counter()
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=len(wanted))
        compiled = warmup(wanted, options.threads, done=lambda one: bar.update(task, advance=1, description=one.entry))
    took = time.perf_counter() - began
    print(f"{len(wanted)} kernels, {compiled} of them compiled now, in {took:.1f} s: {cache_folder()}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KernelError as exc:
        sys.exit(f"error: {exc}")
