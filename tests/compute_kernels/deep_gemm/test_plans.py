"""Small kernels that prepare others: where parts of paged logits begin, and the groups of rows by the groups' ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.compute_kernels.emulator.emulator import emulated_products

from threefs.compute_kernels import deep_gemm, jit
from threefs.compute_kernels.deep_gemm import layout
from threefs.compute_kernels.deep_gemm.group_ids import fused_groups_of_ends, group_ids_source, plain_groups_of_ends
from threefs.compute_kernels.deep_gemm.logits_plan import fused_logits_plan, logits_plan_source, plain_logits_plan
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import sass

__all__ = ["emulated_products"]
pytestmark = pytest.mark.kernels
_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")]
_shared = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _ints(values: list[int], device: str = "cpu") -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


# ---------------------------------------------------------------- paged logits
def test_parts_of_paged_logits_cover_every_unit_in_order() -> None:
    units = [1, 1, 1, 2, 40]
    for parts in (1, 3, 44, 132):
        meta = deep_gemm.get_paged_mqa_logits_metadata(_ints([0, 1, 128, 129, 5000]), 64, parts).tolist()
        assert meta[0] == [0, 0]
        assert meta[-1] == [5, 0]
        places = [sum(units[:request]) + unit for request, unit in meta]
        assert places == sorted(places)
        assert max(b - a for a, b in pairwise(places)) <= -(-45 // parts)


@pytest.mark.usefixtures("emulated_products")
@given(lengths=st.lists(st.integers(-5, 3000), min_size=1, max_size=40), parts=st.integers(1, 200))
@_shared
def test_the_kernel_cuts_where_plain_tensors_do(lengths: list[int], parts: int) -> None:
    assert torch.equal(fused_logits_plan(_ints(lengths), parts), plain_logits_plan(_ints(lengths), parts))


def _many_requests(device: str) -> None:
    torch.manual_seed(0)
    for count, longest in ((1024, 9000), (2500, 300), (1, 2_000_000), (5000, 1)):
        lengths = torch.randint(0, longest + 1, (count,), dtype=torch.int32)
        assert torch.equal(fused_logits_plan(lengths.to(device), 132).cpu(), plain_logits_plan(lengths, 132)), count
    every_other = torch.arange(64, dtype=torch.int32, device=device)[::2] * 100
    assert torch.equal(fused_logits_plan(every_other, 7).cpu(), plain_logits_plan(every_other.cpu(), 7))


@pytest.mark.usefixtures("emulated_products")
def test_more_requests_than_threads() -> None:
    _many_requests("cpu")


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=_gpu)])
def test_more_requests_than_threads_on_a_gpu(device: str) -> None:
    _many_requests(device)


def test_indices_are_refused() -> None:
    with pytest.raises(InvalidInput, match="indices are given"):
        deep_gemm.get_paged_mqa_logits_metadata(_ints([1]), 64, 4, _ints([0]))  # type: ignore[arg-type]


# ---------------------------------------------------------------- groups by their ends
def _ids(sizes: list[int], step: int, spare: int) -> tuple[list[int], list[int]]:
    """Ends of groups of these sizes, and the group of each row."""
    ids: list[int] = []
    ends = []
    for group, size in enumerate(sizes):
        ids += [-1] * (-len(ids) % step) + [group] * size
        ends.append(len(ids))
    return ends, ids + [-1] * spare


@pytest.mark.usefixtures("emulated_products")
@given(sizes=st.lists(st.integers(0, 400), max_size=9), step=st.sampled_from([64, 128]), spare=st.integers(0, 300))
@_shared
def test_groups_of_ends(sizes: list[int], step: int, spare: int) -> None:
    ends, ids = _ids(sizes, step, spare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_contiguous_alignment", step)
        for found in (plain_groups_of_ends(_ints(ends), len(ids)), fused_groups_of_ends(_ints(ends), len(ids))):
            assert found.dtype == torch.int32
            assert found.tolist() == ids


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=_gpu)])
def test_groups_of_ends_on_a_gpu(device: str) -> None:
    ends, ids = _ids([100, 0, 700, 128, 1, 4000, 0], 128, 200)
    assert fused_groups_of_ends(_ints(ends, device), len(ids)).tolist() == ids


@pytest.mark.parametrize("source", [logits_plan_source(), group_ids_source()], ids=lambda source: source.entry)
def test_plans_compile_without_spills(source: jit.KernelSource) -> None:
    compiled = jit.build(source)
    assert compiled.spill_bytes == compiled.stack_bytes == 0
    found = sass.opcodes(sass.disassemble(compiled.cubin))
    assert found["LDL"] == found["STL"] == 0
    assert found["STG"] > 0
