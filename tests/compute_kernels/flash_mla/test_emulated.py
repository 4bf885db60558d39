"""Attention kernels, from the public functions down to their own source, on the CPU: see `emulator/machine.h`.

Small cases of what `test_gpu*.py` checks on a card, with tolerances at least as tight.
"""

from __future__ import annotations

import pytest
import torch
from tests.compute_kernels.emulator.emulator import emulated
from tests.compute_kernels.flash_mla.cases import (
    check_close,
    check_lse,
    page_table,
    poison_pages,
    random_values,
    unused_keys,
)

from threefs.compute_kernels import flash_mla
from threefs.compute_kernels.flash_mla.dense_decode import reference_decode
from threefs.compute_kernels.flash_mla.gather_decode import reference_sparse

__all__ = ["emulated"]
pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("emulated")]
SCALE = 576**-0.5


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _random(*shape: int) -> torch.Tensor:
    return random_values(*shape, device="cpu")


def _check(out: torch.Tensor, wanted: torch.Tensor, lse: torch.Tensor, wanted_lse: torch.Tensor) -> None:
    check_close(out, wanted, 8e-4, 2.01 / 128, 5e-6)
    check_lse(lse, wanted_lse)
    finite = torch.isfinite(wanted_lse)
    assert bool(((lse.double() - wanted_lse)[finite].abs() < 2e-5).all())


@pytest.mark.parametrize(
    ("heads", "s_q", "page", "lengths", "causal", "scale"),
    [
        (16, 1, 64, [1, 0, 63, 200, 65], False, SCALE),
        (9, 4, 16, [77, 17, 1], True, SCALE),
        (32, 1, 64, [1300], False, 1500 * SCALE),  # in pieces of two pairs; weights from nothing to all
        (64, 1, 32, [130, 64], False, 10 * SCALE),
    ],
)
def test_fp8_pages(heads: int, s_q: int, page: int, lengths: list[int], causal: bool, scale: float) -> None:
    table, blocks = page_table(lengths, page, "cpu")
    cache = flash_mla.quantise_pages(_random(blocks, page, 1, 576) * torch.exp2(-5 * torch.rand(blocks, page, 1, 1)))
    q, lens = _random(len(lengths), s_q, heads, 576), torch.tensor(lengths, dtype=torch.int32)
    wanted = reference_decode(q, flash_mla.dequantise_pages(cache), table, lens, scale, causal)
    poison_pages(cache, table, lengths)
    plan, _ = flash_mla.get_mla_metadata()
    out, lse = flash_mla.flash_mla_with_kvcache(
        q, cache, table, lens, 512, plan, softmax_scale=scale, causal=causal, is_fp8_kvcache=True
    )
    _check(out, wanted[0], lse, wanted[1])


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize(("heads", "s_q", "page", "dtype"), [(16, 2, 64, torch.bfloat16), (64, 1, 16, torch.float16)])
def test_dense(heads: int, s_q: int, page: int, dtype: torch.dtype, invariant: bool) -> None:
    lengths = [600, 1, 0, 64]
    table, blocks = page_table(lengths, page, "cpu")
    cache, q = _random(blocks, page, 1, 576).to(dtype), _random(len(lengths), s_q, heads, 576).to(dtype)
    lens = torch.tensor(lengths, dtype=torch.int32)
    wanted = reference_decode(q, cache, table, lens, SCALE, True)
    cache[:, :, 0][unused_keys(blocks, page, table, lengths)] = torch.nan
    plan, _ = flash_mla.get_mla_metadata(batch_invariant=invariant)
    out, lse = flash_mla.flash_mla_with_kvcache(q, cache, table, lens, 512, plan, causal=True)
    _check(out, wanted[0], lse, wanted[1])


def test_sparse_decode_with_sinks() -> None:
    cache, q = flash_mla.quantise_rows(_random(5, 60, 1, 576)), _random(3, 2, 64, 576)
    indices = torch.randint(-1, 300, (3, 2, 130), dtype=torch.int32)
    indices[1, 0] = -1
    indices[indices == 7] = 8
    counts, sinks = torch.tensor([130, 70, 5], dtype=torch.int32), torch.randn(64)
    rows = flash_mla.dequantise_rows(cache).flatten(0, 2)
    wanted = reference_sparse(q.flatten(0, 1), rows, indices.flatten(0, 1), counts.repeat_interleave(2), SCALE, sinks)
    cache.view(-1, 656)[7] = 255
    plan, _ = flash_mla.get_mla_metadata()
    out, lse = flash_mla.flash_mla_with_kvcache(
        q, cache, None, None, 512, plan, is_fp8_kvcache=True, indices=indices, attn_sink=sinks, topk_length=counts
    )
    _check(out.flatten(0, 1), wanted[0], lse.transpose(1, 2).flatten(0, 1), wanted[2])


@pytest.mark.parametrize(("heads", "head", "limited"), [(64, 512, True), (16, 576, False)])
def test_sparse_prefill(heads: int, head: int, limited: bool) -> None:
    q, kv = _random(6, heads, head), _random(300, 1, head)
    indices = torch.randint(-1, 305, (6, 1, 200), dtype=torch.int32)
    indices[indices == 7] = 8
    counts = torch.tensor([200, 0, 64, 1, 129, 999] if limited else [200] * 6, dtype=torch.int32)
    wanted = reference_sparse(q, kv[:, 0], indices[:, 0], counts, head**-0.5)
    kv[7] = torch.nan
    out, top, lse = flash_mla.flash_mla_sparse_fwd(q, kv, indices, head**-0.5, topk_length=counts if limited else None)
    _check(out, wanted[0], lse, wanted[2])
    seen = torch.isfinite(wanted[1])
    assert torch.equal(torch.isneginf(top), ~seen)
    assert bool(((top - wanted[1])[seen].abs() < 2e-5).all())
