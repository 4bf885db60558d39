"""Decode on a Hopper GPU against float64, with NaN wherever the kernel must not look.

Tolerances of the original: out within 8e-4 or 2.01 / 128 relative, and cosine difference below 5e-6; lse within 1e-6
or 8.01 / 65536 relative. Inputs are normal / 10, clamped to 1.
"""

from __future__ import annotations

import random

import pytest
import torch

from threefs.compute_kernels import flash_mla
from threefs.compute_kernels.flash_mla.dense_decode import DecodeShape, reference_decode
from threefs.compute_kernels.flash_mla.plan import make_plan, reference_plan

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")]


class Case:
    """Random inputs: pages shuffled, unused pages and the rest of last pages NaN, unused table entries huge."""

    def __init__(
        self,
        s_q: int,
        heads: int,
        kv_heads: int,
        lengths: list[int],
        page: int = 64,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        batch = len(lengths)
        self.q = (torch.randn(batch, s_q, heads, 576, device="cuda") / 10).clamp(-1, 1).to(dtype)
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device="cuda")
        needed = [-(-length // page) for length in lengths]
        total = sum(needed) + 3
        self.cache = (torch.randn(total, page, kv_heads, 576, device="cuda") / 10).clamp(-1, 1).to(dtype)
        table = torch.full((batch, max(needed) + 2), 2**30, dtype=torch.int32)
        order, at = torch.randperm(total), 0
        for i, count in enumerate(needed):
            ids = order[at : at + count]
            table[i, :count] = ids.int()
            at += count
            if lengths[i] % page:
                self.cache[ids[-1], lengths[i] % page :] = float("nan")
        self.cache[order[at:].cuda()] = float("nan")
        self.table = table.cuda()

    def run(
        self, causal: bool, scale: float | None = None, *, fused: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plan, _ = flash_mla.get_mla_metadata(fused_combine=fused)
        return flash_mla.flash_mla_with_kvcache(
            self.q, self.cache, self.table, self.lengths, 512, plan, softmax_scale=scale, causal=causal
        )

    def check(self, out: torch.Tensor, lse: torch.Tensor, causal: bool, scale: float | None = None) -> None:
        wanted, wanted_lse = reference_decode(self.q, self.cache, self.table, self.lengths, scale or 576**-0.5, causal)
        wide = out.double()
        error = (wide - wanted).abs()
        assert bool(((error < 8e-4) | (error < 2.01 / 128 * wanted.abs())).all()), float(error.max())
        norm = float((wide * wide + wanted * wanted).sum())
        assert norm == 0 or 1 - 2 * float((wide * wanted).sum()) / norm < 5e-6
        finite = torch.isfinite(wanted_lse)
        assert torch.equal(torch.isposinf(lse), ~finite)
        lse_error, size = (lse.double() - wanted_lse)[finite].abs(), wanted_lse[finite].abs()
        assert bool(((lse_error < 1e-6) | (lse_error < 8.01 / 65536 * size)).all())


def _random_lengths(batch: int, mean: int, seed: int) -> list[int]:
    dice = random.Random(seed)
    return [max(0, round(dice.gauss(mean, mean / 2))) for _ in range(batch)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads"), [(1, 1), (3, 3), (9, 1), (63, 3), (64, 2), (64, 1), (126, 1), (128, 8), (128, 1)]
)
@pytest.mark.parametrize("s_q", [1, 2, 4])
@pytest.mark.parametrize(("batch", "mean"), [(1, 20), (2, 140), (6, 4096), (64, 900)])
def test_the_originals_grid(batch: int, mean: int, s_q: int, heads: int, kv_heads: int, causal: bool) -> None:
    case = Case(s_q, heads, kv_heads, _random_lengths(batch, mean, batch + s_q + heads))
    out, lse = case.run(causal)
    again, lse_again = case.run(causal)
    assert torch.equal(out, again), "the same bits each time"
    assert torch.equal(lse, lse_again)
    case.check(out, lse, causal)


@pytest.mark.parametrize("page", [16, 32, 64, 128, 512])
@pytest.mark.parametrize("heads", [16, 128])
def test_page_sizes(page: int, heads: int) -> None:
    case = Case(1, heads, 1, [1, 77, 1025, 3000], page)
    case.check(*case.run(False), causal=False)


def test_half_of_a_large_batch_is_empty() -> None:
    case = Case(2, 128, 1, [0 if i % 2 else 4096 for i in range(128)])
    case.check(*case.run(True), causal=True)


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_large_logits(scale: float) -> None:
    case = Case(1, 128, 1, [500, 6000], dtype=torch.float16)
    case.check(*case.run(False, scale), causal=False, scale=scale)


@pytest.mark.parametrize("seed", range(30))
def test_the_devices_plan_is_the_references(seed: int) -> None:
    dice = random.Random(seed)
    batch, parts = dice.choice([1, 2, 7, 64, 128, 300, 1500]), dice.choice([1, 8, 33, 66, 132])
    lengths = [dice.choice([0, 1, 64, 65, dice.randint(0, 9000)]) for _ in range(batch)]
    plan, splits = make_plan(torch.tensor(lengths, dtype=torch.int32, device="cuda"), parts)
    rows, wanted = reference_plan(lengths, parts)
    assert splits.tolist() == wanted
    for got, row in zip(plan[:, :5].tolist(), rows, strict=True):
        assert got == row or (got[0] > got[1] and row[0] > row[1]), (got, row)


@pytest.mark.parametrize(
    ("s_q", "heads", "kv_heads", "lengths"),
    [
        (1, 128, 1, [4096] * 16),
        (1, 128, 1, [65536]),
        (4, 16, 1, [4641, 45118, 1730, 1696]),
        (2, 63, 3, [3000, 0, 1, 700]),
        (1, 9, 1, _random_lengths(64, 900, 1)),
    ],
)
def test_a_fused_combination(s_q: int, heads: int, kv_heads: int, lengths: list[int]) -> None:
    case = Case(s_q, heads, kv_heads, lengths)
    out, lse = case.run(True, fused=True)
    case.check(out, lse, causal=True)
    for _ in range(50):
        again, lse_again = case.run(True, fused=True)
        assert torch.equal(out, again), "the same bits each time"
        assert torch.equal(lse, lse_again)


def test_a_fused_combination_in_a_graph_with_changing_lengths() -> None:
    case = Case(1, 128, 1, [4096, 3000, 2000, 1000])
    case.run(False, fused=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = case.run(False, fused=True)
    for lengths in ([4096, 3000, 2000, 1000], [1, 0, 1999, 64], [640, 640, 640, 640]):
        case.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        for _ in range(5):
            out.fill_(float("nan"))
            lse.fill_(float("nan"))
            graph.replay()
        case.check(out, lse, causal=False)


def test_first_release_arguments_in_a_graph_with_changing_lengths() -> None:
    case = Case(2, 128, 1, [4096, 3000, 2000, 1000])
    shape = DecodeShape(4, 2, 128, 1, 64)

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        plan, splits = flash_mla.get_mla_metadata(case.lengths, shape.rows, 1)
        return flash_mla.flash_mla_with_kvcache(
            case.q, case.cache, case.table, case.lengths, 512, plan, splits, causal=True
        )

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = step()
    for lengths in ([4096, 3000, 2000, 1000], [1, 0, 1999, 64], [640, 640, 640, 640]):
        case.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        out.fill_(float("nan"))
        lse.fill_(float("nan"))
        graph.replay()
        case.check(out, lse, causal=True)


@pytest.mark.parametrize("fused", [False, True])
def test_two_streams_at_once(fused: bool) -> None:
    cases = [Case(1, 128, 1, [3000, 50]), Case(1, 16, 1, [9000, 700, 0])]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    results = []
    for _ in range(5):
        results = []
        for stream, case in zip(streams, cases, strict=True):
            with torch.cuda.stream(stream):
                results.append(case.run(False, fused=fused))
    torch.cuda.synchronize()
    for case, result in zip(cases, results, strict=True):
        case.check(*result, causal=False)
