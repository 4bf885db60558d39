"""bf16 products, weight gradients and indexer logits on a Hopper GPU against float64.

Tolerances: bf16 outputs as in test_gpu.py (1.5e-3 relative Frobenius error, rounded reference); float32 outputs of bf16
products 2e-5, of FP8 products 5e-4 (the tensor cores' sum of 128 products is short); logits 5e-6 cosine difference.
"""

from __future__ import annotations

import random

import pytest
import torch

from threefs.compute_kernels import deep_gemm
from threefs.compute_kernels.deep_gemm import layout
from threefs.compute_kernels.deep_gemm.bf16_gemm import reference_bf16_gemm
from threefs.compute_kernels.deep_gemm.fp8_wgrad import reference_wgrad
from threefs.compute_kernels.deep_gemm.mqa_logits import reference_mqa_logits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")]

NAN = float("nan")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((out.double() - wanted.double()).norm() / wanted.double().norm())


def _bf16(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(torch.bfloat16)


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 576, 7168), (64, 2112, 7168), (130, 264, 72), (1000, 4096, 2048), (4096, 7168, 2048), (4096, 2112, 7168)],
)
@pytest.mark.parametrize("form", ["nt", "nn", "tn", "tt"])
def test_bf16_dense(form: str, m: int, n: int, k: int) -> None:
    if form[0] == "t" and m % 8:
        m = 8
    a, b = _bf16(m, k), _bf16(n, k)
    wanted = reference_bf16_gemm(a, b)
    left = a.t().contiguous() if form[0] == "t" else a
    right = b.t().contiguous() if form[1] == "n" else b
    product = getattr(deep_gemm, f"bf16_gemm_{form}")
    out, again = (torch.full((m, n), NAN, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    product(left, right, out)
    product(left, right, again)
    assert torch.equal(out, again), "the same bits each time"
    assert _error(out, wanted.to(torch.bfloat16)) < 1.5e-3
    wide, addend = torch.full((m, n), NAN, device="cuda"), torch.randn(m, n, device="cuda")
    product(left, right, wide)
    assert _error(wide, wanted) < 2e-5
    product(left, right, wide, addend)
    assert _error(wide, wanted + addend) < 2e-5


@pytest.mark.parametrize(
    ("groups", "n", "k", "alignment"),
    [(4, 4096, 2048, 128), (5, 576, 1024, 128), (3, 136, 272, 128), (5, 576, 1024, 64), (3, 136, 272, 64)],
)
def test_bf16_groups(groups: int, n: int, k: int, alignment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_contiguous_alignment", alignment)
    dice = random.Random(groups)
    ids: list[int] = []
    for group in range(groups):
        size = 0 if group == 1 else dice.randint(1, 700)
        ids += [group] * size + [-1] * (-size % alignment)
    ids += [-1] * 128
    a, b = _bf16(len(ids), k), _bf16(groups, n, k)
    out = torch.full((len(ids), n), 7.0, dtype=torch.bfloat16, device="cuda")
    indices = torch.tensor(ids, dtype=torch.int32, device="cuda")
    deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a, b, out, indices)
    for group in range(groups):
        if len(rows := (indices == group).nonzero()[:, 0]):
            assert _error(out[rows], reference_bf16_gemm(a[rows], b[group]).to(torch.bfloat16)) < 1.5e-3
    assert bool((out[-128:] == 7.0).all())
    m_max, counts = 300, [dice.choice([0, 1, 64, 129, 300]) for _ in range(groups)]
    a, out = _bf16(groups, m_max, k), torch.full((groups, m_max, n), 7.0, dtype=torch.bfloat16, device="cuda")
    deep_gemm.m_grouped_bf16_gemm_nt_masked(a, b, out, torch.tensor(counts, dtype=torch.int32, device="cuda"), 100)
    for group, size in enumerate(counts):
        if size:
            assert _error(out[group, :size], reference_bf16_gemm(a[group, :size], b[group]).to(torch.bfloat16)) < 1.5e-3
        assert bool((out[group, size:] == 7.0).all())


@pytest.mark.parametrize(("m", "n", "ks"), [(4096, 7168, [1024, 0, 2048]), (136, 264, [0, 64, 192, 0, 128] * 15)])
def test_bf16_k_grouped(m: int, n: int, ks: list[int]) -> None:
    a, b = _bf16(sum(ks), m), _bf16(sum(ks), n)
    on_device = torch.tensor(ks, dtype=torch.int32, device="cuda")
    start = torch.randn(len(ks), m, n, device="cuda")
    out, again, kept = torch.full_like(start, NAN), torch.full_like(start, NAN), start.clone()
    deep_gemm.k_grouped_bf16_gemm_tn_contiguous(a, b, out, ks, on_device, start)
    deep_gemm.k_grouped_bf16_gemm_tn_contiguous(a, b, again, ks, on_device)
    deep_gemm.k_grouped_bf16_gemm_tn_contiguous(a, b, kept, ks, on_device, kept)
    assert torch.equal(out, kept), "the same bits each time"
    for group, (left, right) in enumerate(zip(a.split(ks), b.split(ks), strict=True)):
        wanted = reference_bf16_gemm(left.t(), right.t())
        if ks[group] == 0:
            assert torch.equal(out[group], start[group])
            assert not again[group].any()
        else:
            assert _error(again[group], wanted) < 2e-5, group
            assert _error(out[group], wanted + start[group]) < 2e-5, group


def _fine(rows: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return deep_gemm.per_token_cast_to_fp8(torch.randn(rows, k, device="cuda"))


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(128, 128, 128), (300, 136, 1040), (300, 136, 4112), (1, 4, 16), (4096, 7168, 4096), (7168, 2048, 8192)],
)
def test_weight_gradient(m: int, n: int, k: int) -> None:
    lhs, rhs = _fine(m, k), _fine(n, k)
    start = torch.randn(m, n, device="cuda")
    outs = [start.clone(), start.clone()]
    for out in outs:
        deep_gemm.wgrad_gemm_fp8_fp8_fp32_nt(lhs, rhs, out)
    assert torch.equal(*outs), "the same bits each time"
    assert _error(outs[0] - start, reference_wgrad(*lhs, *rhs)) < 5e-4


@pytest.mark.parametrize(
    ("m", "n", "ks"),
    [
        (4096, 7168, [1024, 0, 4096, 3072]),
        (4096, 7168, [4096, 4096, 0]),
        (256, 512, [128, 144, 0, 16, 640] * 15),
        (256, 512, [2048, 144, 0, 16, 4112]),
    ],
)
def test_k_grouped(m: int, n: int, ks: list[int]) -> None:
    sides = [([_fine(rows, k) for k in ks if k]) for rows in (m, n)]
    packed = [
        (
            torch.cat([v.view(torch.uint8).flatten() for v, _ in side]).view(torch.float8_e4m3fn),
            torch.cat([s.t() for _, s in side]).contiguous(),
        )
        for side in sides
    ]
    start = torch.randn(len(ks), m, n, device="cuda")
    out = torch.full_like(start, NAN)
    deep_gemm.k_grouped_fp8_gemm_nt_contiguous(packed[0], packed[1], out, ks, c=start)
    at = 0
    for group, k in enumerate(ks):
        if k == 0:
            assert torch.equal(out[group], start[group])
            continue
        wanted = reference_wgrad(*sides[0][at], *sides[1][at])
        assert _error(out[group] - start[group], wanted) < 5e-4, group
        at += 1


def _same_logits(out: torch.Tensor, wanted: torch.Tensor) -> None:
    assert torch.equal(torch.isneginf(out), torch.isneginf(wanted))
    seen = ~torch.isneginf(wanted)
    assert deep_gemm.calc_diff(out[seen], wanted[seen]) < 5e-6


@pytest.mark.parametrize(("heads", "dim"), [(64, 128), (32, 128), (16, 64), (32, 32), (64, 64)])
@pytest.mark.parametrize(("s", "s_k"), [(1, 1), (130, 1000), (515, 4099)])
def test_mqa_logits(s: int, s_k: int, heads: int, dim: int) -> None:
    q = torch.randn(s, heads, dim, device="cuda").to(torch.float8_e4m3fn)
    keys, scales = torch.randn(s_k, dim, device="cuda").to(torch.float8_e4m3fn), torch.rand(s_k, device="cuda") + 0.5
    weights = torch.randn(s, heads, device="cuda")
    start = torch.randint(0, max(s_k // 2, 1), (s,), device="cuda", dtype=torch.int32)
    end = (start + torch.randint(0, s_k, (s,), device="cuda")).clamp(max=s_k).int()
    end[0] = start[0]
    wanted = reference_mqa_logits(q, keys, scales, weights, start, end)
    out = deep_gemm.fp8_mqa_logits(q, (keys, scales), weights, start, end)
    _same_logits(out, wanted)
    assert torch.equal(out, deep_gemm.fp8_mqa_logits(q, (keys, scales), weights, start, end))
    longest = max(int((end - start).max()), 1)
    packed = deep_gemm.fp8_mqa_logits(q, (keys, scales), weights, start, end, max_seqlen_k=longest)
    columns = start[:, None] + torch.arange(longest, device="cuda")
    moved = torch.full_like(packed, -torch.inf, dtype=torch.float64)
    inside = columns < end[:, None]
    moved[inside] = wanted.gather(1, columns.clamp(max=s_k - 1).long())[inside]
    _same_logits(packed, moved)


@pytest.mark.parametrize(
    ("heads", "dim", "next_n"),
    [(64, 128, 1), (64, 128, 3), (64, 128, 4), (32, 64, 2), (16, 128, 3), (16, 64, 5), (16, 128, 16)],
)
def test_paged_mqa_logits(heads: int, dim: int, next_n: int) -> None:
    lengths = [1, 0, 64, 65, 5000, 700, 128, 2049]
    pages = [-(-length // 64) for length in lengths]
    blocks = sum(pages) + 2
    values = torch.randn(blocks, 64, dim, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.rand(blocks, 64, device="cuda") + 0.5
    cache = torch.cat([values.view(torch.uint8).flatten(1), scales.view(torch.uint8)], 1).view(blocks, 64, 1, dim + 4)
    table = torch.full((len(lengths), max(pages) + 1), 2**30, dtype=torch.int32)
    order, at = torch.randperm(blocks), 0
    for i, count in enumerate(pages):
        table[i, :count] = order[at : at + count].int()
        at += count
    q = torch.randn(len(lengths), next_n, heads, dim, device="cuda").to(torch.float8_e4m3fn)
    weights = torch.randn(len(lengths) * next_n, heads, device="cuda")
    lens = torch.tensor(lengths, dtype=torch.int32, device="cuda")
    meta = deep_gemm.get_paged_mqa_logits_metadata(lens, 64, 132)
    out = deep_gemm.fp8_paged_mqa_logits(q, cache, weights, lens, table.cuda(), meta, 5100, clean_logits=True)
    wanted = torch.full((len(lengths) * next_n, 5100), -torch.inf, dtype=torch.float64, device="cuda")
    for i, length in enumerate(lengths):
        used, rows = table[i, : pages[i]].long().cuda(), slice(i * next_n, (i + 1) * next_n)
        ends = length - (next_n - 1 - torch.arange(next_n, device="cuda"))
        wanted[rows, : pages[i] * 64] = reference_mqa_logits(
            q[i], values[used].flatten(0, 1), scales[used].flatten(), weights[rows], torch.zeros_like(ends), ends
        )
    _same_logits(out, wanted)  # all at once: a single logit may be a small difference of large sums
