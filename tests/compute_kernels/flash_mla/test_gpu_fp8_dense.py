"""Decode over a dense FP8 cache that is multiplied as it lies, on a Hopper GPU against float64.

Tolerances of the original: out within 8e-4 or 2.01 / 128 relative, cosine difference below 5e-6, lse 8.01 / 65536
relative or an absolute bound that is ours: the tensor cores add e4m3 products with about 14 bits.
"""

from __future__ import annotations

import pytest
import torch
from tests.compute_kernels.flash_mla.cases import page_table, poison_pages, random_values

from threefs.compute_kernels import flash_mla
from threefs.compute_kernels.flash_mla.dense_decode import reference_decode
from threefs.compute_kernels.flash_mla.fp8_decode import FP8_KEY

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")]

LENGTHS = [1, 0, 63, 640, 4097, 2, 900, 65, 128]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _random(*shape: int) -> torch.Tensor:
    return random_values(*shape, device="cuda")


def _table(lengths: list[int], page: int) -> tuple[torch.Tensor, int]:
    return page_table(lengths, page, "cuda")


def _decode(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, lens: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    plan, _ = flash_mla.get_mla_metadata()
    return flash_mla.flash_mla_with_kvcache(
        q, cache, table, lens, 512, plan, softmax_scale=scale, causal=causal, is_fp8_kvcache=True
    )


def _check(
    out: torch.Tensor,
    lse: torch.Tensor,
    wanted: torch.Tensor,
    wanted_lse: torch.Tensor,
    *,
    absolute: float = 8e-4,
    cosine: float = 5e-6,
    lse_absolute: float = 1e-4,
) -> None:
    wide = out.double()
    error = (wide - wanted).abs()
    norm = float((wide * wide + wanted * wanted).sum())
    distance = 1 - 2 * float((wide * wanted).sum()) / norm
    finite = torch.isfinite(wanted_lse)
    lse_error = (lse.double() - wanted_lse)[finite].abs()
    print(f"out {float(error.max()):.2e} cosine {distance:.1e} lse {float(lse_error.max()):.1e}")
    assert bool(((error < absolute) | (error < 2.01 / 128 * wanted.abs())).all()), float(error.max())
    assert distance < cosine
    assert torch.equal(torch.isposinf(lse), torch.isposinf(wanted_lse))
    assert bool(((lse_error < lse_absolute) | (lse_error < 8.01 / 65536 * wanted_lse[finite].abs())).all())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("heads", "s_q", "page"),
    [
        (16, 1, 64),
        (8, 2, 64),
        (32, 1, 64),
        (64, 1, 64),
        (128, 1, 16),
        (128, 2, 256),
        (9, 4, 32),
        (16, 2, 128),
        (64, 4, 64),
    ],
)
def test_fp8_pages(heads: int, s_q: int, page: int, causal: bool) -> None:
    table, blocks = _table(LENGTHS, page)
    rows = _random(blocks, page, 1, 576) * (10 ** -torch.rand(blocks, page, 1, 1, device="cuda"))
    cache = flash_mla.quantise_pages(rows)
    assert cache.shape == (blocks, page, 1, FP8_KEY)
    q, lens = _random(len(LENGTHS), s_q, heads, 576), torch.tensor(LENGTHS, dtype=torch.int32, device="cuda")
    wanted, wanted_lse = reference_decode(q, flash_mla.dequantise_pages(cache), table, lens, 576**-0.5, causal)
    poison_pages(cache, table, LENGTHS)
    results = [_decode(q, cache, table, lens, causal, 576**-0.5) for _ in range(2)]
    _check(*results[0], wanted, wanted_lse)
    assert torch.equal(results[0][0], results[1][0]), "the same bits each time"


@pytest.mark.parametrize("heads", [16, 64])
@pytest.mark.parametrize("factor", [1.0, 30.0, 300.0])
def test_large_logits_and_uneven_scales(heads: int, factor: float) -> None:
    """Weights from flat to nearly one key; keys 2^10 and heads 1,000 times apart."""
    table, blocks = _table(LENGTHS, 64)
    spread = torch.exp2(-10 * torch.rand(blocks, 64, 1, 1, device="cuda"))
    cache = flash_mla.quantise_pages(_random(blocks, 64, 1, 576) * spread)
    q = _random(len(LENGTHS), 1, heads, 576) * (1000 ** -torch.rand(1, 1, heads, 1, device="cuda")).to(torch.bfloat16)
    lens = torch.tensor(LENGTHS, dtype=torch.int32, device="cuda")
    scale = factor * 576**-0.5
    wanted, wanted_lse = reference_decode(q, flash_mla.dequantise_pages(cache), table, lens, scale, False)
    # A logit is off by 2^-13 of its terms, so a weight by that times the logits' size, here up to 300.
    _check(
        *_decode(q, cache, table, lens, False, scale), wanted, wanted_lse,
        cosine=5e-6 * max(1, factor / 30) ** 2, lse_absolute=1e-4 * max(1.0, factor),
    )  # fmt: skip


@pytest.mark.parametrize("heads", [16, 64])
@pytest.mark.parametrize("ahead", [10, 16, 18, 20])
def test_many_small_weights_beside_a_large_one(heads: int, ahead: int) -> None:
    """One key weighs 2^ahead times as much as another; together the others, whose values have a mean, still count."""
    lengths = [8192, 100, 4097]
    table, blocks = _table(lengths, 64)
    rows = _random(blocks, 64, 1, 576) + 0.05
    rows[..., 512:] = 0
    first = table[:, 0].long()
    rows[first, 0] = _random(len(lengths), 1, 576)
    rows[first, 0, :, 512:] = ahead * 0.6931 * 24 / 64  # logits: 64 times this / 24
    cache = flash_mla.quantise_pages(rows)
    q, lens = _random(len(lengths), 1, heads, 576), torch.tensor(lengths, dtype=torch.int32, device="cuda")
    q[..., 512:] = 1
    wanted, wanted_lse = reference_decode(q, flash_mla.dequantise_pages(cache), table, lens, 1 / 24, False)
    _check(*_decode(q, cache, table, lens, False, 1 / 24), wanted, wanted_lse)


def test_one_plan_of_many_requests() -> None:
    lengths = torch.randint(0, 3000, (300,)).tolist()
    table, blocks = _table(lengths, 64)
    cache, q = flash_mla.quantise_pages(_random(blocks, 64, 1, 576)), _random(300, 1, 32, 576)
    lens = torch.tensor(lengths, dtype=torch.int32, device="cuda")
    wanted, wanted_lse = reference_decode(q, flash_mla.dequantise_pages(cache), table, lens, 576**-0.5, False)
    _check(*_decode(q, cache, table, lens, False, 576**-0.5), wanted, wanted_lse)


@pytest.mark.parametrize("heads", [16, 64])
def test_batch_invariant_bits_of_fp8_pages(heads: int) -> None:
    lengths = [9000, 1, 2048, 2049, 0, 6000, 300]
    table, blocks = _table(lengths, 64)
    cache, q = flash_mla.quantise_pages(_random(blocks, 64, 1, 576)), _random(len(lengths), 1, heads, 576)
    lens = torch.tensor(lengths, dtype=torch.int32, device="cuda")

    def run(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        plan, _ = flash_mla.get_mla_metadata(batch_invariant=True)
        return flash_mla.flash_mla_with_kvcache(
            q[rows].contiguous(),
            cache,
            table[rows].contiguous(),
            lens[rows].contiguous(),
            512,
            plan,
            is_fp8_kvcache=True,
        )

    together, lse = run(torch.arange(7, device="cuda"))
    for i in range(7):
        alone, alone_lse = run(torch.tensor([i], device="cuda"))
        assert torch.equal(alone[0], together[i])
        assert torch.equal(alone_lse[0], lse[i])
    wanted, wanted_lse = reference_decode(q, flash_mla.dequantise_pages(cache), table, lens, 576**-0.5, False)
    _check(together, lse, wanted, wanted_lse)


def test_a_sink_takes_weight() -> None:
    table, blocks = _table(LENGTHS, 64)
    cache, q = flash_mla.quantise_pages(_random(blocks, 64, 1, 576)), _random(len(LENGTHS), 1, 16, 576)
    lens = torch.tensor(LENGTHS, dtype=torch.int32, device="cuda")
    sink = torch.randn(16, device="cuda") + 5
    plan, _ = flash_mla.get_mla_metadata()
    out, lse = flash_mla.flash_mla_with_kvcache(q, cache, table, lens, 512, plan, is_fp8_kvcache=True, attn_sink=sink)
    wanted, wanted_lse = reference_decode(q, flash_mla.dequantise_pages(cache), table, lens, 576**-0.5, False)
    factor = 1 / (1 + (sink.double()[None, :, None] - wanted_lse).exp()).transpose(1, 2)[..., None]
    _check(out, lse, torch.where(torch.isfinite(factor), wanted * factor, wanted), wanted_lse)


def test_a_graph_sees_new_lengths() -> None:
    table, blocks = _table([4096] * 8, 64)
    cache, q = flash_mla.quantise_pages(_random(blocks, 64, 1, 576)), _random(8, 1, 16, 576)
    lens = torch.full((8,), 100, dtype=torch.int32, device="cuda")

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        return _decode(q, cache, table, lens, False, 576**-0.5)

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = call()
    for length in (4096, 0, 777):
        lens.fill_(length)
        out.fill_(float("nan"))
        graph.replay()
        wanted, wanted_lse = reference_decode(q, flash_mla.dequantise_pages(cache), table, lens, 576**-0.5, False)
        if length:
            _check(out, lse, wanted, wanted_lse)
        else:
            assert not bool(out.any())
            assert bool(torch.isposinf(lse).all())
