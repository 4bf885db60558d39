"""FP8 caches, sparse decode, sparse prefill and the batch-invariant mode on a Hopper GPU against float64.

Tolerances of the original: decode out within 1e-3 or 2.01 / 128 relative and cosine difference below 5e-6; prefill 8e-4
or 3.01 / 128 and 7e-6; lse 3e-6 or 8.01 / 65536. Inputs are normal / 10, clamped to 1.
"""

from __future__ import annotations

import random

import pytest
import torch
from tests.compute_kernels.flash_mla.cases import check_close, check_lse, page_table, random_values

from threefs.compute_kernels import flash_mla
from threefs.compute_kernels.flash_mla.dense_decode import reference_decode
from threefs.compute_kernels.flash_mla.gather_decode import reference_sparse
from threefs.compute_kernels.flash_mla.plan import make_plan, reference_fixed_plan

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _random(*shape: int) -> torch.Tensor:
    return random_values(*shape, device="cuda")


def _table(lengths: list[int], page: int) -> tuple[torch.Tensor, int]:
    return page_table(lengths, page, "cuda")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "s_q", "page"), [(16, 1, 64), (64, 2, 64), (128, 1, 16), (128, 2, 256), (9, 4, 64)])
def test_fp8_cache_in_order(heads: int, s_q: int, page: int, causal: bool) -> None:
    lengths = [1, 0, 63, 640, 4097, 2, 900]
    table, blocks = _table(lengths, page)
    cache = flash_mla.quantise_rows(
        _random(blocks, page, 1, 576) * (10 ** -torch.rand(blocks, page, 1, 1, device="cuda"))
    )
    q, lens = _random(len(lengths), s_q, heads, 576), torch.tensor(lengths, dtype=torch.int32, device="cuda")
    wanted, wanted_lse = reference_decode(q, flash_mla.dequantise_rows(cache), table, lens, 576**-0.5, causal)
    for i, length in enumerate(lengths):  # what lies past the end has no influence
        if length % page:
            cache[int(table[i, length // page]), length % page :] = 255
    plan, _ = flash_mla.get_mla_metadata()
    results = [
        flash_mla.flash_mla_with_kvcache(q, cache, table, lens, 512, plan, causal=causal, is_fp8_kvcache=True)
        for _ in range(2)
    ]
    assert torch.equal(results[0][0], results[1][0]), "the same bits each time"
    check_close(results[0][0], wanted, 1e-3, 2.01 / 128, 5e-6)
    check_lse(results[0][1], wanted_lse)


@pytest.mark.parametrize(
    ("s_k", "topk", "page"), [(512, 64, 2), (512, 64, 69), (1024, 576, 61), (2046, 2048, 64), (300, 100, 64)]
)
@pytest.mark.parametrize(("batch", "s_q", "heads", "sink"), [(4, 1, 64, False), (4, 3, 128, True), (74, 2, 128, False)])
def test_sparse_decode(batch: int, s_q: int, heads: int, sink: bool, s_k: int, topk: int, page: int) -> None:
    blocks = -(-s_k // page)
    cache = flash_mla.quantise_rows(_random(blocks, page, 1, 576))
    q = _random(batch, s_q, heads, 576)
    indices = torch.randint(-1, s_k, (batch, s_q, topk), device="cuda", dtype=torch.int32)
    indices[0] = -1
    sinks = torch.randn(heads, device="cuda") if sink else None
    lengths = torch.randint(0, topk + 1, (batch,), device="cuda", dtype=torch.int32) if sink else None
    plan, _ = flash_mla.get_mla_metadata()
    out, lse = flash_mla.flash_mla_with_kvcache(
        q, cache, None, None, 512, plan, is_fp8_kvcache=True, indices=indices, attn_sink=sinks, topk_length=lengths
    )
    counts = torch.full((batch,), topk) if lengths is None else lengths
    wanted, _, wanted_lse = reference_sparse(
        q.flatten(0, 1),
        flash_mla.dequantise_rows(cache).flatten(0, 2),
        indices.flatten(0, 1),
        counts.repeat_interleave(s_q),
        576**-0.5,
        sinks,
    )
    check_close(out.flatten(0, 1), wanted, 1e-3, 2.01 / 128, 5e-6)
    check_lse(lse.transpose(1, 2).flatten(0, 1), wanted_lse)


@pytest.mark.parametrize(("s_kv", "topk"), [(128, 128), (592, 128), (1521, 512), (95, 128), (114, 384), (700, 70)])
@pytest.mark.parametrize(("s_q", "heads", "head"), [(1, 64, 576), (62, 128, 576), (213, 128, 512), (213, 16, 576)])
def test_sparse_prefill(s_q: int, heads: int, head: int, s_kv: int, topk: int) -> None:
    q, kv = _random(s_q, heads, head), _random(s_kv, 1, head)
    indices = torch.randint(-1, s_kv + 5, (s_q, 1, topk), device="cuda", dtype=torch.int32)
    lengths = torch.randint(0, topk + 1, (s_q,), device="cuda", dtype=torch.int32) if s_q == 213 else None
    sinks = torch.randn(heads, device="cuda") if heads == 16 else None
    scale = head**-0.5
    out, top, lse = flash_mla.flash_mla_sparse_fwd(q, kv, indices, scale, attn_sink=sinks, topk_length=lengths)
    again, _, _ = flash_mla.flash_mla_sparse_fwd(q, kv, indices, scale, attn_sink=sinks, topk_length=lengths)
    assert torch.equal(out, again), "the same bits each time"
    counts = torch.full((s_q,), topk) if lengths is None else lengths
    wanted, wanted_top, wanted_lse = reference_sparse(q, kv[:, 0], indices[:, 0], counts, scale, sinks)
    check_close(out, wanted, 8e-4, 3.01 / 128, 7e-6)
    check_lse(lse, wanted_lse)
    seen = torch.isfinite(wanted_top)
    assert torch.equal(torch.isneginf(top), ~seen)
    assert bool(((top - wanted_top)[seen].abs() < 1e-6 + 2.01 / 65536 * wanted_top[seen].abs()).all())


@pytest.mark.parametrize("seed", range(10))
def test_the_fixed_plan_is_the_references(seed: int) -> None:
    dice = random.Random(seed)
    batch, parts = dice.choice([1, 2, 64, 300, 1500]), dice.choice([1, 8, 33, 66, 132])
    lengths = [dice.choice([0, 1, 2048, 2049, dice.randint(0, 40_000)]) for _ in range(batch)]
    plan, splits = make_plan(torch.tensor(lengths, dtype=torch.int32, device="cuda"), parts, fixed=True)
    rows, wanted = reference_fixed_plan(lengths, parts)
    assert splits.tolist() == wanted
    assert plan[:, :5].tolist() == rows


@pytest.mark.parametrize(("heads", "s_q"), [(16, 1), (128, 1), (64, 2)])
def test_batch_invariant_bits(heads: int, s_q: int) -> None:
    lengths = [9000, 1, 2048, 2049, 0, 6000, 300]
    table, blocks = _table(lengths, 64)
    cache, q = _random(blocks, 64, 1, 576), _random(len(lengths), s_q, heads, 576)
    lens = torch.tensor(lengths, dtype=torch.int32, device="cuda")

    def run(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        plan, _ = flash_mla.get_mla_metadata(batch_invariant=True)
        return flash_mla.flash_mla_with_kvcache(
            q[rows].contiguous(), cache, table[rows].contiguous(), lens[rows].contiguous(), 512, plan, causal=True
        )

    out, lse = run(torch.arange(len(lengths), device="cuda"))
    wanted, wanted_lse = reference_decode(q, cache, table, lens, 576**-0.5, True)
    check_close(out, wanted, 8e-4, 2.01 / 128, 5e-6)
    check_lse(lse, wanted_lse)
    for i in range(len(lengths)):
        alone, lse_alone = run(torch.tensor([i], device="cuda"))
        among, lse_among = run(torch.tensor([3, i, 0, i, 5], device="cuda"))
        assert torch.equal(alone[0], out[i])
        assert torch.equal(lse_alone[0], lse[i])
        assert torch.equal(among[3], out[i])
        assert torch.equal(lse_among[3], lse[i])
