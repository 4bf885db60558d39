"""Placement speed as ratios to the plain per-layer steps, and the balance each policy reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from tests.compute_kernels.eplb.loads import draw
from tests.compute_kernels.eplb.oracle import rebalance_oracle

from threefs.compute_kernels.eplb import make_plan, rebalance_experts
from threefs.compute_kernels.eplb.plan import balancedness

pytestmark = pytest.mark.bench


def seconds(call: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


@pytest.mark.parametrize(
    ("name", "groups", "nodes", "gpus", "ratio_min"),
    [("32 GPUs hierarchical", 8, 4, 32, 30), ("32 GPUs global", 1, 1, 32, 60), ("144 GPUs global", 1, 1, 144, 100)],
)
@pytest.mark.parametrize("law", ["lognormal", "zipf"])
def test_default_policy_speed(name: str, groups: int, nodes: int, gpus: int, ratio_min: int, law: str) -> None:
    weight = draw(law, 58, 256, seed=0)
    plain = seconds(lambda: rebalance_oracle(weight, 288, groups, nodes, gpus), 1)
    ours = seconds(lambda: rebalance_experts(weight, 288, groups, nodes, gpus), 5)
    published = make_plan(weight, 288, groups, nodes, gpus)
    balanced = make_plan(weight, 288, groups, nodes, gpus, policy="balanced")
    print(
        f"\n{law}, {name}: plain {plain:.2f} s, ours {ours * 1e3:.1f} ms, ratio {plain / ours:.0f}; balancedness"
        f" {published.balancedness.mean():.4f} with {published.num_duplicates} duplicates, balanced"
        f" {balanced.balancedness.mean():.4f} with {balanced.num_duplicates}"
    )
    assert plain / ours >= ratio_min


def test_incremental_moves() -> None:
    torch.manual_seed(0)
    weight = draw("lognormal", 58, 256, seed=0)
    old = make_plan(weight, 288, 1, 1, 32, policy="balanced")
    drifted = weight * torch.exp(0.2 * torch.randn(58, 256))
    whole = make_plan(drifted, 288, 1, 1, 32, policy="balanced")
    renamed = make_plan(drifted, 288, 1, 1, 32, policy="balanced", previous=old)
    small = make_plan(drifted, 288, 1, 1, 32, policy="incremental", previous=old)
    moves = [len(plan.diff(old)) for plan in (whole, renamed, small)]
    stale = balancedness(old.gpu_load_under(drifted)).mean()
    print(
        f"\nmoves after a drift of 20 %: anew {moves[0]}, renamed {moves[1]}, incremental {moves[2]}"
        f" (balancedness {small.balancedness.mean():.3f}; left alone it would be {stale:.3f})"
    )
    assert moves[2] * 10 < moves[1] < moves[0]
