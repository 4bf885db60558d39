"""Products and logits, from the public functions down to their own source, on the CPU: see `emulator/machine.h`.

Small cases of what `test_gpu*.py` checks on a card. Emulated tensor cores sum in float32, so tolerances are tighter.
"""

from __future__ import annotations

import pytest
import torch
from tests.compute_kernels.emulator.emulator import SMS, emulated_products

from threefs.compute_kernels import deep_gemm
from threefs.compute_kernels.deep_gemm import api, bf16_gemm, fp8_wgrad
from threefs.compute_kernels.deep_gemm.bf16_gemm import Bf16Tiling, reference_bf16_gemm
from threefs.compute_kernels.deep_gemm.fp8_gemm import Tiling, reference_gemm
from threefs.compute_kernels.deep_gemm.fp8_wgrad import reference_wgrad
from threefs.compute_kernels.deep_gemm.mqa_logits import reference_mqa_logits

__all__ = ["emulated_products"]
pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("emulated_products")]
NAN = float("nan")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((out.double() - wanted.double()).norm() / wanted.double().norm())


def _fp8(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(("stages", "out_boxes"), [(4, 0), (3, 4)])
def test_contiguous_groups_in_tiles_of_256_rows(stages: int, out_boxes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups end in the middle of a tile, at its end, before and behind rows of nobody."""
    tiling = Tiling(128, math_groups=2, waves=2, stages=stages, turns=1, out_boxes=out_boxes)
    monkeypatch.setattr(api, "choose_contiguous", lambda *_: tiling)
    ids = [0] * 384 + [2] * 128 + [1] * 256 + [-1] * 128 + [3] * 128 + [0] * 100 + [-1] * 156
    m, n, k, groups = len(ids), 136, 272, 4
    indices = torch.tensor(ids, dtype=torch.int32)
    lhs = deep_gemm.per_token_cast_to_fp8(torch.randn(m, k))
    weights = [deep_gemm.per_block_cast_to_fp8(torch.randn(n, k)) for _ in range(groups)]
    values = torch.stack([values.view(torch.uint8) for values, _ in weights]).view(torch.float8_e4m3fn)
    out = torch.full((m, n), 7.0, dtype=torch.bfloat16)
    deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_contiguous(
        lhs, (values, torch.stack([s for _, s in weights])), out, indices
    )
    for group in range(groups):
        rows = (indices == group).nonzero()[:, 0]
        assert _error(out[rows], reference_gemm(lhs[0][rows], lhs[1][rows], *weights[group])) < 2.5e-3, group
    for rest in (out[768:896], out[1152:]):
        assert bool((rest == 7.0).all()), "rows of nobody are left alone"


def test_groups_by_their_ends() -> None:
    ends, n, k = torch.tensor([100, 128, 300], dtype=torch.int32), 64, 128  # the second has no rows
    a, b = torch.randn(384, k).bfloat16(), torch.randn(3, n, k).bfloat16()
    out = torch.full((384, n), 7.0, dtype=torch.bfloat16)
    deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a, b, out, ends, use_psum_layout=True)
    assert _error(out[:100], reference_bf16_gemm(a[:100], b[0])) < 2.5e-3
    assert _error(out[128:300], reference_bf16_gemm(a[128:300], b[2])) < 2.5e-3
    weights = [deep_gemm.per_block_cast_to_fp8(matrix.float()) for matrix in b]
    rhs = (
        torch.stack([values.view(torch.uint8) for values, _ in weights]).view(torch.float8_e4m3fn),
        torch.stack([scale for _, scale in weights]),
    )
    lhs = deep_gemm.per_token_cast_to_fp8(a.float())
    deep_gemm.m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, out, ends, use_psum_layout=True)
    assert _error(out[128:300], reference_gemm(lhs[0][128:300], lhs[1][128:300], *weights[2])) < 2.5e-3


@pytest.mark.parametrize(
    "tiling",
    [
        Tiling(128, waves=2, stages=4, turns=1, out_boxes=1),
        Tiling(64, math_groups=1, stages=3, stage_k=4, stream_b=True),
    ],
)
def test_more_k_blocks_than_a_warp_holds_scales_of(tiling: Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    """65 and a rest of them: the scales that 32 lanes hold are fetched anew twice, and once more for each tile."""
    monkeypatch.setattr(api, "choose_dense", lambda *_: tiling)
    m, n, k = 40, 72, 65 * 128 + 16
    lhs, rhs = deep_gemm.per_token_cast_to_fp8(torch.randn(m, k)), deep_gemm.per_block_cast_to_fp8(torch.randn(n, k))
    out = torch.full((m, n), NAN, dtype=torch.bfloat16)
    deep_gemm.gemm_fp8_fp8_bf16_nt(lhs, rhs, out)
    assert _error(out, reference_gemm(*lhs, *rhs)) < 2.5e-3


@pytest.mark.parametrize(
    "tiling", [Tiling(128, math_groups=1, stages=4, out_boxes=2), Tiling(192, stages=4, turns=1, out_boxes=1)]
)
def test_masked_groups_whose_output_leaves_in_boxes(tiling: Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that holds a group's end must not touch the rows behind it; columns end inside a box."""
    monkeypatch.setattr(api, "choose_masked", lambda *_: tiling)
    counts, rows, n, k = [70, 0, 16], 96, 216, 272
    weights = [deep_gemm.per_block_cast_to_fp8(torch.randn(n, k)) for _ in counts]
    lhs = [deep_gemm.per_token_cast_to_fp8(torch.randn(rows, k)) for _ in counts]
    left, right = (
        (
            torch.stack([v.view(torch.uint8) for v, _ in side]).view(torch.float8_e4m3fn),
            torch.stack([s for _, s in side]),
        )
        for side in (lhs, weights)
    )
    out = torch.full((len(counts), rows, n), 7.0, dtype=torch.bfloat16)
    deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_masked(left, right, out, torch.tensor(counts, dtype=torch.int32), 32)
    for group, count in enumerate(counts):
        assert bool((out[group, count:] == 7.0).all()), "rows of nobody are left alone"
        if count:
            wanted = reference_gemm(lhs[group][0][:count], lhs[group][1][:count], *weights[group])
            assert _error(out[group, :count], wanted) < 2.5e-3, group


@pytest.mark.parametrize(
    ("form", "tiling"), [("nt", Bf16Tiling(176, 2, 5)), ("nn", Bf16Tiling(128, 2, 4)), ("tn", Bf16Tiling(64, 1, 3))]
)
def test_bf16(form: str, tiling: Bf16Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16_gemm, "choose_bf16", lambda *_, **__: tiling)
    m, n, k = 136, 360, 136
    a, b = torch.randn(m, k).to(torch.bfloat16), torch.randn(n, k).to(torch.bfloat16)
    out = torch.full((m, n), NAN, dtype=torch.bfloat16)
    left = a.t().contiguous() if form[0] == "t" else a
    right = b.t().contiguous() if form[1] == "n" else b
    getattr(deep_gemm, f"bf16_gemm_{form}")(left, right, out)
    assert _error(out, reference_bf16_gemm(a, b)) < 2.5e-3


def _fine(rows: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return deep_gemm.per_token_cast_to_fp8(torch.randn(rows, k))


@pytest.mark.parametrize("split", [False, True])
def test_weight_gradient(split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tiles on two multiprocessors: the last one alone, or as two halves of K, of which the first is shorter."""
    monkeypatch.setattr(fp8_wgrad, "sms_of", lambda device: 2)
    monkeypatch.setattr(fp8_wgrad, "splits_tail", lambda *_: split)
    m, n, k = 200, 264, 272
    lhs, rhs = _fine(m, k), _fine(n, k)
    start = torch.randn(m, n)
    out = start.clone()
    deep_gemm.wgrad_gemm_fp8_fp8_fp32_nt(lhs, rhs, out)
    assert _error(out - start, reference_wgrad(*lhs, *rhs)) < 1e-6


def test_split_groups_of_a_weight_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The split tile belongs to the last group: of one K block, so that one half is empty; or of none."""
    monkeypatch.setattr(fp8_wgrad, "sms_of", lambda device: 2)
    monkeypatch.setattr(fp8_wgrad, "splits_tail", lambda tiles, *_: tiles % 2 == 1)
    m, n = 64, 40
    for ks in ([144, 0, 128], [144, 16, 0]):
        sides = [[_fine(rows, k) for k in ks if k] for rows in (m, n)]
        packed = [
            (
                torch.cat([v.view(torch.uint8).flatten() for v, _ in side]).view(torch.float8_e4m3fn),
                torch.cat([s.t() for _, s in side]).contiguous(),
            )
            for side in sides
        ]
        start, out = torch.randn(len(ks), m, n), torch.full((len(ks), m, n), NAN)
        deep_gemm.k_grouped_fp8_gemm_nt_contiguous(packed[0], packed[1], out, ks, c=start)
        products = (reference_wgrad(*left, *right) for left, right in zip(*sides, strict=True))
        for group, k in enumerate(ks):
            wanted = start[group] + (next(products) if k else 0.0)
            assert _error(out[group], wanted) < 1e-6, (ks, group)


def _same_logits(out: torch.Tensor, wanted: torch.Tensor) -> None:
    assert torch.equal(torch.isneginf(out), torch.isneginf(wanted))
    seen = ~torch.isneginf(wanted)
    assert torch.allclose(out[seen].double(), wanted[seen], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("s", "s_k", "heads", "dim"),
    [(9, 700, 64, 32), (40, 300, 32, 32), (1, 1, 16, 64), (18, 130, 16, 32)],
)
def test_logits(s: int, s_k: int, heads: int, dim: int) -> None:
    """Blocks take shares of all units, which begin and end inside of requests; some queries see nothing."""
    q, keys = _fp8(s, heads, dim), _fp8(s_k, dim)
    scales, weights = torch.rand(s_k) + 0.5, torch.randn(s, heads)
    start = torch.randint(0, max(s_k // 2, 1), (s,), dtype=torch.int32)
    end = (start + torch.randint(0, s_k, (s,))).clamp(max=s_k).int()
    end[0] = start[0]
    end[8:24] = start[8:24]
    wanted = reference_mqa_logits(q, keys, scales, weights, start, end)
    _same_logits(deep_gemm.fp8_mqa_logits(q, (keys, scales), weights, start, end), wanted)
    longest = max(int((end - start).max()), 1)
    moved = torch.full((s, longest), -torch.inf, dtype=torch.float64)
    for i in range(s):
        moved[i, : end[i] - start[i]] = wanted[i, start[i] : end[i]]
    _same_logits(deep_gemm.fp8_mqa_logits(q, (keys, scales), weights, start, end, max_seqlen_k=longest), moved)


def test_paged_logits() -> None:
    lengths, next_n, heads, dim, page = [1, 0, 130, 600], 3, 16, 32, 64
    pages = [-(-length // page) for length in lengths]
    blocks = sum(pages) + 2
    values, scales = _fp8(blocks, page, dim), torch.rand(blocks, page) + 0.5
    cache = torch.cat([values.view(torch.uint8).flatten(1), scales.view(torch.uint8)], 1).view(blocks, page, 1, dim + 4)
    table, order, at = torch.full((len(lengths), max(pages) + 1), 2**30, dtype=torch.int32), torch.randperm(blocks), 0
    for i, count in enumerate(pages):
        table[i, :count] = order[at : at + count].int()
        at += count
    q, weights = _fp8(len(lengths), next_n, heads, dim), torch.randn(len(lengths) * next_n, heads)
    lens = torch.tensor(lengths, dtype=torch.int32)
    meta = deep_gemm.get_paged_mqa_logits_metadata(lens, page, SMS)
    out = deep_gemm.fp8_paged_mqa_logits(q, cache, weights, lens, table, meta, 700, clean_logits=True)
    wanted = torch.full((len(lengths) * next_n, 700), -torch.inf, dtype=torch.float64)
    for i, length in enumerate(lengths):
        used, rows = table[i, : pages[i]].long(), slice(i * next_n, (i + 1) * next_n)
        ends = length - (next_n - 1 - torch.arange(next_n))
        wanted[rows, : pages[i] * page] = reference_mqa_logits(
            q[i], values[used].flatten(0, 1), scales[used].flatten(), weights[rows], torch.zeros_like(ends), ends
        )
    _same_logits(out, wanted)
