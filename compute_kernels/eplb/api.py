"""The two doors: `rebalance_experts`, which answers as the original does, and `make_plan`, which gives a `Plan`.

Called by users. The rule kept here: arguments are checked before any policy runs.
"""

from __future__ import annotations

from typing import Literal

import torch

from threefs.compute_kernels.eplb.align import align
from threefs.compute_kernels.eplb.balanced import place_balanced
from threefs.compute_kernels.eplb.errors import PlacementError
from threefs.compute_kernels.eplb.incremental import place_incrementally
from threefs.compute_kernels.eplb.plan import Plan, check_previous
from threefs.compute_kernels.eplb.problem import Ints, Problem, make_problem
from threefs.compute_kernels.eplb.published import place_published

Policy = Literal["deepseek", "balanced", "incremental"]
POLICIES = ("deepseek", "balanced", "incremental")


def rebalance_experts(
    weight: torch.Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    policy: Policy = "deepseek",
    allow_duplicates: bool = False,
    previous: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Place experts so that GPUs carry equal loads.

    `weight` is [layers, experts]. Returns, int64 and on the CPU: slot to expert [layers, replicas]; expert to
    slots [layers, experts, most replicas of any], padded with -1; replicas of each expert [layers, experts].
    Raises `PlacementError`, which names the argument at fault.
    """
    plan = make_plan(
        weight,
        num_replicas,
        num_groups,
        num_nodes,
        num_gpus,
        policy=policy,
        allow_duplicates=allow_duplicates,
        previous=previous,
    )
    return plan.to_tensors()


def make_plan(
    weight: torch.Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    policy: Policy = "deepseek",
    allow_duplicates: bool = False,
    previous: torch.Tensor | Plan | None = None,
    moves_max: int | None = None,
    target_balancedness: float = 0.95,
) -> Plan:
    """As `rebalance_experts`, with the plan as an object.

    `"deepseek"` is the published greedy policy. `"balanced"` beats or equals it, puts no expert twice on a GPU
    (unless `allow_duplicates`), and takes sizes that do not divide. `"incremental"` starts from `previous` (slot
    to expert, or a plan) and moves as few experts as reach `target_balancedness` in each layer, `moves_max` a
    layer at most. With the other two, `previous` renames GPUs and slots so that the fewest experts move.
    """
    problem = make_problem(weight, num_replicas, num_groups, num_nodes, num_gpus)
    if policy not in POLICIES:
        raise PlacementError("policy", f"expected one of {', '.join(POLICIES)}, got {policy!r}")
    old = _previous(problem, previous)
    if policy == "incremental":
        if old is None:
            raise PlacementError("previous", 'policy="incremental" needs the placement to start from')
        if not 0.0 < target_balancedness <= 1.0:
            raise PlacementError("target_balancedness", f"expected more than 0, 1 at most, got {target_balancedness!r}")
        return place_incrementally(
            problem, old, moves_max=moves_max, target=target_balancedness, allow_duplicates=allow_duplicates
        )
    if policy == "balanced":
        plan = place_balanced(problem, allow_duplicates)
    else:
        problem.check_published()
        plan = Plan.from_placement(problem, place_published(problem))
    return plan if old is None else align(plan, old)


def _previous(problem: Problem, previous: torch.Tensor | Plan | None) -> Ints | None:
    if previous is None:
        return None
    return check_previous(problem, previous.to_tensors()[0] if isinstance(previous, Plan) else previous)
