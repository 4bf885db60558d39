"""Decode that combines in the attention kernel: all blocks of the grid at once, each in a process of its own.

Results lie in memory that the processes share and are poisoned; every launch is repeated on the memory that it used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compute_kernels.emulator.emulator import EmulatedKernel, break_source, emulated, own_sources
from tests.compute_kernels.flash_mla.cases import page_table, random_values

from threefs.compute_kernels import flash_mla
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.flash_mla import api, dense_decode
from threefs.compute_kernels.flash_mla.dense_decode import Fused
from threefs.compute_kernels.jit import Launch

__all__ = ["emulated", "own_sources"]
pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("emulated", "_shared")]
_made: list[torch.Tensor] = []


class _Repeated(EmulatedKernel):
    def launch(self, launch: Launch, arguments: Sequence[Any], device: torch.device) -> None:
        super().launch(launch, arguments, device)
        if launch.cooperative:
            *results, memory = _made[-3:]
            first = [tensor.clone() for tensor in results]
            tiles, kv_heads, parts = launch.grid
            flags = memory.view(torch.int64)[: tiles * kv_heads * 2 * parts * parts]
            _check_flags(flags, arguments[-1])
            for tensor in (*results, memory[2 * len(flags) :]):
                _poison(tensor)
            super().launch(launch, arguments, device)
            _check_flags(flags, arguments[-1])
            assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True)), "the same bits again"


def _poison(tensor: torch.Tensor) -> None:
    tensor.flatten().view(torch.uint8).fill_(255)  # NaN


def _check_flags(flags: torch.Tensor, fused: Fused) -> None:
    assert flags.data_ptr() == fused.flags
    assert not bool((flags == fused.number - 2**64 * (fused.number >> 63)).any()), "a flag is left set"


def _shared_maker(dtype: torch.dtype, device: torch.device) -> Callable[..., torch.Tensor]:
    def make(*shape: int) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype).share_memory_()
        _poison(tensor)
        _made.append(tensor)
        return tensor

    return make


@pytest.fixture
def _shared(emulated: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.manual_seed(0)
    monkeypatch.setattr(dense_decode.replay, "maker", _shared_maker)
    monkeypatch.setattr(dense_decode, "loaded", _Repeated)
    yield
    _made.clear()


def _decode(
    lengths: list[int], heads: int, s_q: int, page: int, dtype: torch.dtype, kv_heads: int = 1
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The results with the combination in a kernel of its own, and in the attention kernel."""
    table, blocks = page_table(lengths, page, "cpu")
    cache = random_values(blocks, page, kv_heads, 576, device="cpu").to(dtype)
    q = random_values(len(lengths), s_q, heads, 576, device="cpu").to(dtype)
    lens = torch.tensor(lengths, dtype=torch.int32)
    results = []
    for fused in (False, True):
        plan, _ = flash_mla.get_mla_metadata(fused_combine=fused)
        results.append(flash_mla.flash_mla_with_kvcache(q, cache, table, lens, 512, plan, causal=True))
    return results


CASES = [
    ([600, 1, 0, 64], 16, 2, 64, torch.bfloat16, 1),  # pieces and whole requests, two positions
    ([1000], 9, 1, 16, torch.float16, 1),  # one request, a piece a part
    ([300, 700], 128, 1, 64, torch.bfloat16, 1),  # two tiles of rows
    ([130, 900, 5], 6, 3, 32, torch.bfloat16, 2),  # two kv heads, rows that do not divide
]
PROVED = [pytest.param(*case, marks=pytest.mark.proof) for case in CASES[2:]]


@pytest.mark.parametrize(("lengths", "heads", "s_q", "page", "dtype", "kv_heads"), [*CASES[:2], *PROVED])
def test_the_bits_are_those_of_two_kernels(
    lengths: list[int], heads: int, s_q: int, page: int, dtype: torch.dtype, kv_heads: int
) -> None:
    (out, lse), (fused_out, fused_lse) = _decode(lengths, heads, s_q, page, dtype, kv_heads)
    assert torch.equal(lse, fused_lse)
    assert torch.equal(out, fused_out)


@pytest.mark.proof
def test_many_pieces_are_summed_by_eight_warps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 18 parts; the order of the sum is that of the other kernel with as many warps."""
    monkeypatch.setattr(api, "sms_of", lambda device: 18)
    (out, lse), (fused_out, fused_lse) = _decode([18 * 128 - 5], 16, 1, 64, torch.bfloat16)
    assert torch.equal(lse, fused_lse)
    assert torch.equal(out, fused_out)


STORED = "  named_barrier_sync(kSums, kMathThreads);  // all partial results"
AWAIT = "await_flag(flag_of(f, part - pieces.index + thread, thread == 0, part), f.number)"
ROWS, SET = "for (u32 row = begin + threadIdx.x / 32;", "flag_of(f, part, first, part - pieces.index + thread)"
BROKEN = {
    "flags set before all is stored": (STORED, "  //"),
    "read before it is stored": (AWAIT, AWAIT.replace("await_flag(", "*").replace(", f.number)", " = 0")),
    "a row of the share left out": (ROWS, ROWS.replace("begin", "begin + 1")),
    "flags of another part": (SET, SET.replace(" - pieces.index + thread", "")),
}


@pytest.mark.proof
@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_found(broken: str, own_sources: Path) -> None:
    break_source(own_sources, *BROKEN[broken])
    with pytest.raises(AssertionError):
        test_the_bits_are_those_of_two_kernels(*CASES[0])


def test_what_it_does_not_go_with() -> None:
    with pytest.raises(InvalidInput, match="exclude each other"):
        flash_mla.get_mla_metadata(batch_invariant=True, fused_combine=True)
    plan, _ = flash_mla.get_mla_metadata(fused_combine=True)
    cache, q = flash_mla.quantise_pages(torch.randn(1, 64, 1, 576)), torch.randn(1, 1, 16, 576).bfloat16()
    table, lens = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([64], dtype=torch.int32)
    with pytest.raises(InvalidInput, match="fused_combine is for bf16 and fp16 caches"):
        flash_mla.flash_mla_with_kvcache(q, cache, table, lens, 512, plan, is_fp8_kvcache=True)
