"""The balanced policy: legal plans, no duplicates where none are needed, never worse than the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compute_kernels.eplb.loads import LAWS, draw

from threefs.compute_kernels.eplb import PlacementError, Plan, make_plan, rebalance_experts
from threefs.compute_kernels.eplb.plan import duplicates_by_layer

pytestmark = pytest.mark.unit

ROUNDING = 1.0 + 1e-12


def assert_is_plan(plan: Plan) -> None:
    """The three tensors agree with each other and every expert has a slot."""
    expert, slots, counts = plan.to_tensors()
    layers, replicas = expert.shape
    assert (counts.sum(1) == replicas).all()
    assert (counts >= 1).all()
    for layer in range(layers):
        for each in range(counts.shape[1]):
            held = slots[layer, each]
            real = held[held >= 0]
            assert real.numel() == counts[layer, each] == (expert[layer] == each).sum()
            assert (expert[layer, real] == each).all()
            assert (held[real.numel() :] == -1).all()


sizes = st.fixed_dictionaries(
    {
        "experts": st.integers(1, 40),
        "extra": st.integers(0, 60),
        "groups": st.integers(1, 6),
        "nodes": st.integers(1, 4),
        "gpus": st.integers(1, 12),
    }
)


@settings(max_examples=80)
@given(sizes=sizes, law=st.sampled_from(LAWS), seed=st.integers(0, 2**31), allow=st.booleans())
def test_any_size_is_placed_well(sizes: dict[str, int], law: str, seed: int, allow: bool) -> None:
    experts, replicas = sizes["experts"], sizes["experts"] + sizes["extra"]
    weight = draw(law, 2, experts, seed)
    arguments = (weight, replicas, sizes["groups"], sizes["nodes"], sizes["gpus"])
    plan = make_plan(*arguments, policy="balanced", allow_duplicates=allow)
    assert_is_plan(plan)
    problem = plan.problem
    assert problem.slots_per_gpu.max() - problem.slots_per_gpu.min() <= 1
    if not allow and replicas <= experts // problem.num_domains * problem.num_domains * problem.gpus_per_domain:
        slots = problem.slots_per_gpu.reshape(problem.num_domains, -1).sum(1)
        if (slots <= experts // problem.num_domains * problem.gpus_per_domain).all():
            assert plan.num_duplicates == 0
    try:
        published = make_plan(*arguments)
    except PlacementError:
        return
    comparable = np.ones(2, dtype=bool) if allow else duplicates_by_layer(problem, published.slot_expert) == 0
    worst = published.gpu_load.max(1) * ROUNDING
    assert (plan.gpu_load.max(1)[comparable] <= worst[comparable]).all()


@pytest.mark.parametrize("law", ["lognormal", "zipf", "gamma"])
@pytest.mark.parametrize(("groups", "nodes", "gpus"), [(8, 4, 32), (1, 1, 32), (1, 1, 144)])
def test_deployment_sizes_lose_their_duplicates_and_no_balance(law: str, groups: int, nodes: int, gpus: int) -> None:
    weight = draw(law, 8, 256, seed=5)
    published = make_plan(weight, 288, groups, nodes, gpus)
    balanced = make_plan(weight, 288, groups, nodes, gpus, policy="balanced")
    assert balanced.num_duplicates == 0
    assert balanced.balancedness.mean() >= published.balancedness.mean() - 1e-4
    free = make_plan(weight, 288, groups, nodes, gpus, policy="balanced", allow_duplicates=True)
    assert (free.gpu_load.max(1) <= published.gpu_load.max(1) * ROUNDING).all()


def test_hierarchical_plans_keep_groups_on_one_node() -> None:
    plan = make_plan(draw("zipf", 3, 64, 2), 80, 8, 4, 16, policy="balanced")
    node = plan.problem.gpu_of_slot // 4
    for layer in range(3):
        group = plan.slot_expert[layer] // 8
        for each in range(8):
            assert len(set(node[group == each])) == 1


def test_refinement_beats_the_published_plan_clearly_when_it_can() -> None:
    weight = draw("lognormal", 8, 256, seed=1)
    published = make_plan(weight, 288, 1, 1, 32).balancedness.mean()
    assert make_plan(weight, 288, 1, 1, 32, policy="balanced").balancedness.mean() > published + 0.002


def test_sizes_that_do_not_divide() -> None:
    plan = make_plan(draw("lognormal", 4, 61, 9), 71, 5, 3, 7, policy="balanced")
    assert_is_plan(plan)
    assert plan.num_duplicates == 0
    assert sorted(plan.problem.slots_per_gpu) == [10, 10, 10, 10, 10, 10, 11]


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"weight": torch.ones(8)}, "weight"),
        ({"weight": torch.tensor([[1.0, float("nan")] * 4])}, "weight"),
        ({"weight": -torch.ones(1, 8)}, "weight"),
        ({"weight": torch.full((1, 8), 3e37)}, "weight"),
        ({"weight": [[1.0] * 8]}, "weight"),
        ({"num_replicas": 7}, "num_replicas"),
        ({"num_replicas": 9}, "num_replicas"),
        ({"num_replicas": 12.0}, "num_replicas"),
        ({"num_groups": 0}, "num_groups"),
        ({"num_groups": 6}, "num_groups"),
        ({"num_nodes": -1}, "num_nodes"),
        ({"num_gpus": True}, "num_gpus"),
        ({"num_gpus": 3, "num_replicas": 12}, "num_gpus"),
        ({"policy": "best"}, "policy"),
        ({"policy": "incremental"}, "previous"),
        ({"previous": torch.zeros(1, 12, dtype=torch.int64)}, "previous"),
        ({"previous": torch.zeros(1, 11, dtype=torch.int64)}, "previous"),
    ],
)
def test_errors_name_the_argument(change: dict[str, object], argument: str) -> None:
    good: dict[str, object] = {
        "weight": torch.ones(1, 8),
        "num_replicas": 12,
        "num_groups": 4,
        "num_nodes": 2,
        "num_gpus": 4,
    }
    rebalance_experts(**good)  # type: ignore[arg-type]
    with pytest.raises(PlacementError, match=f"^{argument}: ") as caught:
        rebalance_experts(**{**good, **change})  # type: ignore[arg-type]
    assert caught.value.argument == argument
