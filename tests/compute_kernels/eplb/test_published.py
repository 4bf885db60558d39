"""The default policy gives what the published steps give, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compute_kernels.eplb.loads import LAWS, draw
from tests.compute_kernels.eplb.oracle import rebalance_oracle

from threefs.compute_kernels.eplb import rebalance_experts

pytestmark = pytest.mark.unit


def assert_identical(weight: torch.Tensor, replicas: int, groups: int, nodes: int, gpus: int) -> None:
    expected = rebalance_oracle(weight, replicas, groups, nodes, gpus)
    actual = rebalance_experts(weight, replicas, groups, nodes, gpus)
    for name, left, right in zip(("slot to expert", "expert to slots", "counts"), expected, actual, strict=True):
        assert right.dtype == torch.int64, name
        assert right.device.type == "cpu", name
        assert torch.equal(left, right), name


@st.composite
def legal_sizes(draw_: st.DrawFn) -> tuple[int, int, int, int, int]:
    """(experts, replicas, groups, nodes, gpus) that the published policy takes, hierarchical or global."""
    nodes = draw_(st.sampled_from([1, 2, 3, 4]))
    gpus = nodes * draw_(st.sampled_from([1, 2, 4, 8]))
    groups = nodes * draw_(st.sampled_from([1, 2, 3])) if draw_(st.booleans()) else nodes + 1
    experts = groups * draw_(st.integers(1, 40))
    least = -(-experts // gpus)
    return experts, gpus * draw_(st.integers(least, least + 4)), groups, nodes, gpus


@settings(max_examples=60)
@given(
    sizes=legal_sizes(),
    law=st.sampled_from(LAWS),
    layers=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_legal_size_is_identical(sizes: tuple[int, int, int, int, int], law: str, layers: int, seed: int) -> None:
    experts, replicas, groups, nodes, gpus = sizes
    assert_identical(draw(law, layers, experts, seed), replicas, groups, nodes, gpus)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("layers", "experts", "replicas", "groups", "nodes", "gpus"),
    [
        (2, 256, 288, 8, 4, 32),
        (2, 256, 288, 1, 1, 32),
        (61, 16, 24, 4, 2, 8),
        (1, 256, 288, 8, 3, 18),
        (1, 64, 64, 8, 4, 16),
    ],
)
def test_published_shapes_are_identical(
    law: str, layers: int, experts: int, replicas: int, groups: int, nodes: int, gpus: int
) -> None:
    assert_identical(draw(law, layers, experts, seed=7), replicas, groups, nodes, gpus)


def test_two_slots_a_gpu_and_one_slot_a_gpu_are_identical() -> None:
    assert_identical(draw("zipf", 1, 128, 3), 144, 1, 1, 72)
    assert_identical(draw("zipf", 1, 128, 3), 144, 1, 1, 144)


def test_whole_number_and_double_loads_are_rounded_to_float32_as_published() -> None:
    torch.manual_seed(1)
    assert_identical(torch.randint(0, 10**9, (3, 48)), 64, 4, 2, 8)
    assert_identical(torch.rand(3, 48, dtype=torch.float64) * 1e-3, 64, 4, 2, 8)
    assert_identical(torch.rand(48, 3).T, 64, 4, 2, 8)
