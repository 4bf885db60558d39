"""Plans that move little: renaming, incremental changes, and the list of moves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compute_kernels.eplb.loads import draw

from threefs.compute_kernels.eplb import PlacementError, Plan, make_plan

pytestmark = pytest.mark.unit


def shared_slots(problem_gpus: int, new: np.ndarray, old: np.ndarray) -> int:
    """Most slots that any renaming of equal GPUs can keep, by trying them all."""
    parts_new, parts_old = np.split(new, problem_gpus), np.split(old, problem_gpus)

    def common(a: np.ndarray, b: np.ndarray) -> int:
        return sum(min((a == e).sum(), (b == e).sum()) for e in set(a.tolist()))

    return max(
        sum(common(parts_new[source], parts_old[target]) for target, source in enumerate(names))
        for names in itertools.permutations(range(problem_gpus))
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), gpus=st.sampled_from([2, 3, 4]))
def test_renaming_moves_the_fewest_that_a_grouping_allows(seed: int, gpus: int) -> None:
    old = make_plan(draw("lognormal", 1, 12, seed), 12 + gpus * 2 - 12 % gpus, 1, 1, gpus, policy="balanced")
    weight = draw("lognormal", 1, 12, seed + 1)
    size = old.problem.num_replicas
    fresh = make_plan(weight, size, 1, 1, gpus, policy="balanced")
    kept = make_plan(weight, size, 1, 1, gpus, policy="balanced", previous=old)
    assert sorted(kept.gpu_load[0]) == pytest.approx(sorted(fresh.gpu_load[0]))
    assert len(kept.diff(old)) == size - shared_slots(gpus, fresh.slot_expert[0], old.slot_expert[0])


def test_the_same_loads_move_nothing() -> None:
    weight = draw("zipf", 4, 64, 3)
    for policy in ("deepseek", "balanced"):
        old = make_plan(weight, 80, 8, 4, 16, policy=policy)
        assert make_plan(weight, 80, 8, 4, 16, policy=policy, previous=old).diff(old) == []


def test_nodes_are_renamed_whole_in_hierarchical_plans() -> None:
    weight = draw("zipf", 2, 64, 3)
    old = make_plan(weight, 80, 8, 4, 16)
    new = make_plan(weight * torch.rand(2, 64), 80, 8, 4, 16, previous=old)
    node = new.problem.gpu_of_slot // 4
    for layer, group in itertools.product(range(2), range(8)):
        assert len(set(node[new.slot_expert[layer] // 8 == group])) == 1


def test_incremental_reaches_its_target_with_a_fraction_of_the_moves() -> None:
    weight = draw("lognormal", 6, 256, 1)
    old = make_plan(weight, 288, 1, 1, 32, policy="balanced")
    drifted = weight * torch.exp(0.2 * torch.randn(6, 256))
    arguments = (drifted, 288, 1, 1, 32)
    small = make_plan(*arguments, policy="incremental", previous=old, target_balancedness=0.9)
    whole = make_plan(*arguments, policy="balanced", previous=old)
    assert (small.balancedness >= 0.9).all()
    assert small.num_duplicates == 0
    assert len(small.diff(old)) * 10 < len(whole.diff(old))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), moves=st.integers(0, 9), groups=st.sampled_from([1, 4]))
def test_incremental_never_exceeds_its_moves_nor_worsens_the_peak(seed: int, moves: int, groups: int) -> None:
    nodes = 2 if groups == 4 else 1
    old = make_plan(draw("lognormal", 2, 24, seed), 32, groups, nodes, 8, policy="balanced")
    weight = draw("zipf", 2, 24, seed + 1)
    arguments = (weight, 32, groups, nodes, 8)
    plan = make_plan(*arguments, policy="incremental", previous=old, moves_max=moves, target_balancedness=1.0)
    changed = (plan.slot_expert != old.slot_expert).sum(1)
    assert (changed <= moves).all()
    assert plan.num_duplicates == 0
    assert (plan.count >= 1).all()
    assert (plan.gpu_load**8).sum() <= (old.gpu_load_under(weight) ** 8).sum() * (1 + 1e-9)


def test_diff_lists_each_changed_slot_with_its_nearest_source() -> None:
    weight = torch.ones(1, 4)
    old_experts = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    old = make_plan(weight, 8, 4, 2, 4, previous=None)
    old = Plan.from_experts(old.problem, old_experts.numpy())
    new_experts = old_experts.clone()
    new_experts[0, 0], new_experts[0, 7] = 3, 2
    moves = Plan.from_experts(old.problem, new_experts.numpy()).diff(old)
    assert [(m.expert, m.slot, m.gpu, m.source_slot, m.source_gpu, m.is_local) for m in moves] == [
        (3, 0, 0, 3, 1, False),  # expert 3 lies on GPUs 1 and 3; GPU 1 shares the node
        (2, 7, 3, 6, 3, True),
    ]


def test_diff_refuses_other_sizes() -> None:
    plan = make_plan(torch.ones(1, 4), 8, 1, 1, 4)
    with pytest.raises(PlacementError, match=r"^previous: expected slot to expert of shape \[1, 8\]"):
        plan.diff(torch.zeros(1, 4, dtype=torch.int64))
