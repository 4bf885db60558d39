"""The products on a Hopper GPU against the float64 product of the dequantised inputs.

Tolerance: relative Frobenius error below 1.5e-3 of the whole and of the worst 128 x 128 tile, reference rounded to
bf16. bf16's own rounding is about 7e-4 between two roundings of nearly equal sums.
"""

from __future__ import annotations

import random

import pytest
import torch

from threefs.compute_kernels import deep_gemm
from threefs.compute_kernels.deep_gemm import api, layout
from threefs.compute_kernels.deep_gemm.fp8_gemm import reference_gemm
from threefs.compute_kernels.deep_gemm.tilings import choose_dense

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")]

TOLERANCE = 1.5e-3
NAN = float("nan")


def _operands(
    m: int, n: int, k: int, outliers: bool = False
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    a, b = torch.randn(m, k, device="cuda"), torch.randn(n, k, device="cuda")
    if outliers:
        a[torch.randint(0, m, (m // 7 + 1,))] *= 1e4
        b[:, torch.randint(0, k, (3,))] *= 1e-5
    return deep_gemm.per_token_cast_to_fp8(a), deep_gemm.per_block_cast_to_fp8(b)


def _check(out: torch.Tensor, reference: torch.Tensor) -> None:
    wide, wanted = out.double(), reference.to(torch.bfloat16).double()
    error = (wide - wanted).square()
    whole = float(error.sum().sqrt() / wanted.norm())
    assert whole < TOLERANCE, whole
    m, n = out.shape
    for i in range(0, m, 128):
        for j in range(0, n, 128):
            scale = float(wanted[i : i + 128, j : j + 128].norm())
            worst = float(error[i : i + 128, j : j + 128].sum().sqrt())
            assert worst <= 2 * TOLERANCE * scale, (i, j, worst, scale)


def _dense(m: int, n: int, k: int, outliers: bool = False) -> None:
    lhs, rhs = _operands(m, n, k, outliers)
    out = torch.full((m, n), NAN, dtype=torch.bfloat16, device="cuda")
    deep_gemm.gemm_fp8_fp8_bf16_nt(lhs, rhs, out)  # type: ignore[arg-type]
    again = torch.full_like(out, NAN)
    deep_gemm.fp8_gemm_nt(lhs, rhs, again)  # type: ignore[arg-type]
    _check(out, reference_gemm(*lhs, *rhs))
    assert torch.equal(out, again), "the same bits each time"


@pytest.mark.parametrize(
    ("n", "k"), [(2112, 7168), (576, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048)]
)
@pytest.mark.parametrize("m", [1, 64, 128, 1000, 4096])
def test_dense_at_the_models_shapes(m: int, n: int, k: int) -> None:
    _dense(m, n, k)


@pytest.mark.parametrize("seed", range(24))
def test_dense_at_random_shapes(seed: int) -> None:
    dice = random.Random(seed)
    _dense(dice.randint(1, 700), 8 * dice.randint(1, 200), 16 * dice.randint(1, 200), outliers=bool(seed % 2))


def test_zeros_are_exact() -> None:
    lhs, rhs = _operands(256, 384, 512)
    lhs = (torch.zeros_like(lhs[0]), lhs[1])
    out = torch.full((256, 384), NAN, dtype=torch.bfloat16, device="cuda")
    deep_gemm.gemm_fp8_fp8_bf16_nt(lhs, rhs, out)  # type: ignore[arg-type]
    assert bool((out == 0).all())


@pytest.mark.parametrize("alignment", [128, 64, 256])
@pytest.mark.parametrize(("groups", "n", "k"), [(4, 4096, 7168), (8, 7168, 2048), (5, 576, 1024), (3, 136, 272)])
def test_contiguous_groups(groups: int, n: int, k: int, alignment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if alignment == 256:  # groups as for 128, and tiles that hold the end of one and the beginning of the next
        alignment, tiling = 128, choose_dense(4096, 7168, 16384, 132)
        assert tiling.block_m == 256
        monkeypatch.setattr(api, "choose_contiguous", lambda *_: tiling)
    monkeypatch.setattr(layout, "_contiguous_alignment", alignment)
    dice = random.Random(groups)
    sizes = [0 if g == 1 else dice.randint(1, 700) for g in range(groups)]
    ids: list[int] = []
    for group, size in enumerate(sizes):
        ids += [group] * size + [-1] * (-size % alignment)
    ids += [-1] * 128  # a whole block that belongs to nobody
    m = len(ids)
    weights = [_operands(1, n, k)[1] for _ in range(groups)]
    rhs = (
        torch.stack([w[0].view(torch.uint8) for w in weights]).view(torch.float8_e4m3fn),
        torch.stack([w[1] for w in weights]),
    )
    lhs, _ = _operands(m, 8, k)
    out = torch.full((m, n), 7.0, dtype=torch.bfloat16, device="cuda")
    indices = torch.tensor(ids, dtype=torch.int32, device="cuda")
    deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_contiguous(lhs, rhs, out, indices)  # type: ignore[arg-type]
    for group in range(groups):
        rows = (indices == group).nonzero()[:, 0]
        if len(rows):
            _check(out[rows], reference_gemm(lhs[0][rows], lhs[1][rows], *weights[group]))
    assert bool((out[-128:] == 7.0).all()), "a block that starts with -1 is left alone"


@pytest.mark.parametrize(
    ("groups", "m_max", "expected", "n", "k"),
    [(6, 1024, 700, 4096, 7168), (32, 256, 20, 7168, 2048), (7, 100, 64, 576, 1024)],
)
def test_masked_groups_in_a_graph(groups: int, m_max: int, expected: int, n: int, k: int) -> None:
    dice = random.Random(groups)
    flat, _ = _operands(groups * m_max, 8, k)
    lhs = (flat[0].view(groups, m_max, k), flat[1].view(groups, m_max, -1))
    weights = [_operands(1, n, k)[1] for _ in range(groups)]
    rhs = (
        torch.stack([w[0].view(torch.uint8) for w in weights]).view(torch.float8_e4m3fn),
        torch.stack([w[1] for w in weights]),
    )
    lhs = (lhs[0], deep_gemm.get_col_major_tma_aligned_tensor(lhs[1]))
    counts = torch.zeros(groups, dtype=torch.int32, device="cuda")
    out = torch.empty(groups, m_max, n, dtype=torch.bfloat16, device="cuda")
    deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_masked(lhs, rhs, out, counts, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_masked(lhs, rhs, out, counts, expected)
    for _ in range(2):
        sizes = [0 if dice.random() < 0.3 else dice.randint(1, m_max) for _ in range(groups)]
        counts.copy_(torch.tensor(sizes, dtype=torch.int32))
        out.fill_(7.0)
        graph.replay()
        for group, size in enumerate(sizes):
            if size:
                _check(out[group, :size], reference_gemm(lhs[0][group, :size], lhs[1][group, :size], *weights[group]))
            assert bool((out[group, size:] == 7.0).all()), "rows past the count are left alone"


def test_two_streams_at_once() -> None:
    streams = [torch.cuda.Stream() for _ in range(2)]
    cases = [(_operands(512, 4096, 2048)), (_operands(64, 7168, 2048))]
    outs = [torch.full((c[0][0].shape[0], c[1][0].shape[0]), NAN, dtype=torch.bfloat16, device="cuda") for c in cases]
    torch.cuda.synchronize()
    for _ in range(10):
        for stream, (lhs, rhs), out in zip(streams, cases, outs, strict=True):
            with torch.cuda.stream(stream):
                deep_gemm.gemm_fp8_fp8_bf16_nt(lhs, rhs, out)  # type: ignore[arg-type]
    torch.cuda.synchronize()
    for (lhs, rhs), out in zip(cases, outs, strict=True):
        _check(out, reference_gemm(*lhs, *rhs))
