"""Every access to shared memory is ordered by barriers: see `emulator/races.h`.

compute-sanitizer's racecheck reports two exchanges of the attention kernels (docs/kernels/log.md). Here the same source
runs under a checker that knows what an arrival orders; and it must find each barrier that is taken away.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.compute_kernels.emulator.emulator import EmulatedKernel, break_source, emulated, own_sources
from tests.compute_kernels.flash_mla.cases import page_table, random_values

from threefs.compute_kernels import flash_mla

__all__ = ["emulated", "own_sources"]
pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("emulated", "_ordered")]
LENGTHS = [200, 64]


@pytest.fixture
def _ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatedKernel, "races", True)
    torch.manual_seed(0)


def _random(*shape: int) -> torch.Tensor:
    return random_values(*shape, device="cpu")


def _dense() -> None:
    table, blocks = page_table(LENGTHS, 64, "cpu")
    cache, q = _random(blocks, 64, 1, 576), _random(2, 1, 16, 576)
    plan, _ = flash_mla.get_mla_metadata()
    lens = torch.tensor(LENGTHS, dtype=torch.int32)
    flash_mla.flash_mla_with_kvcache(q.bfloat16(), cache.bfloat16(), table, lens, 512, plan)


def test_dense() -> None:
    _dense()


@pytest.mark.proof
@pytest.mark.parametrize("heads", [16, 64])
def test_fp8_pages(heads: int) -> None:
    """Whole blocks: behind a length, rows are cleared while a slower warp may score them, whose scores do not count."""
    lengths = [192, 64]
    table, blocks = page_table(lengths, 64, "cpu")
    cache = flash_mla.quantise_pages(_random(blocks, 64, 1, 576))
    plan, _ = flash_mla.get_mla_metadata()
    lens = torch.tensor(lengths, dtype=torch.int32)
    q = _random(2, 1, heads, 576)
    flash_mla.flash_mla_with_kvcache(q, cache, table, lens, 512, plan, is_fp8_kvcache=True)


@pytest.mark.proof
def test_sparse_decode() -> None:
    cache, q = flash_mla.quantise_rows(_random(5, 60, 1, 576)), _random(2, 1, 64, 576)
    plan, _ = flash_mla.get_mla_metadata()
    indices = torch.randint(-1, 300, (2, 1, 130), dtype=torch.int32)
    flash_mla.flash_mla_with_kvcache(q, cache, None, None, 512, plan, is_fp8_kvcache=True, indices=indices)


@pytest.mark.proof
def test_sparse_prefill() -> None:
    indices = torch.randint(-1, 305, (6, 1, 200), dtype=torch.int32)
    flash_mla.flash_mla_sparse_fwd(_random(6, 16, 576), _random(300, 1, 576), indices, 576**-0.5)


P1, SUMS = "named_barrier_sync(kP1, kMathThreads)", "named_barrier_sync_apart(kSums, kMathThreads)"
DONE = "  wgmma_wait<0>();\n  pin_registers(rO);\n"
BROKEN = {
    "maxima and weights read before they are there": (P1, P1.replace("sync", "arrive")),
    "sums read before they are there": (SUMS, "named_barrier_arrive(kSums, kMathThreads)"),
    "values freed under their product": (f"{DONE}  release(&s.empty[0][0]);", f"  release(&s.empty[0][0]);\n{DONE}"),
    "weights read before they are there": (
        "named_barrier_sync(kP0, kMathThreads)",
        "named_barrier_arrive(kP0, kMathThreads)",
    ),
    "keys read before they are there": ("      barrier_wait(&s.full[", "      if (tile != 8) barrier_wait(&s.full["),
}
PROVED = [pytest.param(name, marks=pytest.mark.proof) for name in list(BROKEN)[2:]]


@pytest.mark.parametrize("broken", [*list(BROKEN)[:2], *PROVED])
def test_a_missing_wait_is_found(broken: str, own_sources: Path) -> None:
    break_source(own_sources, *BROKEN[broken])
    with pytest.raises(AssertionError, match="and no barrier orders them"):
        _dense()
