"""A new plan renamed so that the weights already in place stay there.

Called by `api.py` when a previous placement is given. The rule it keeps: loads do not change, only the names of
GPUs and slots; and no other naming of the same grouping moves fewer experts.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.optimize import linear_sum_assignment

from threefs.compute_kernels.eplb.plan import Plan
from threefs.compute_kernels.eplb.problem import Ints, Problem

FORBIDDEN = -(10**6)  # outweighs any number of shared slots


def align(plan: Plan, previous: Ints) -> Plan:
    """`plan` with its GPUs (and, when hierarchical, nodes) renamed to share the most slots with `previous`."""
    problem = plan.problem
    slot_expert = np.empty_like(plan.slot_expert)
    for layer in range(problem.num_layers):
        new, old = _by_gpu(problem, plan.slot_expert[layer]), _by_gpu(problem, previous[layer])
        for target, source in enumerate(_best_renaming(problem, new, old)):
            slots = np.flatnonzero(problem.gpu_of_slot == target)
            slot_expert[layer, slots] = _keep_slots(new[source], old[target])
    return Plan.from_experts(problem, slot_expert)


def _by_gpu(problem: Problem, experts: Ints) -> list[list[int]]:
    ends = np.cumsum(problem.slots_per_gpu)[:-1]
    return [part.tolist() for part in np.split(experts, ends)]


def _best_renaming(problem: Problem, new: list[list[int]], old: list[list[int]]) -> Ints:
    """For each GPU of the old placement, the GPU of the new plan that takes its name."""
    common = _common(problem, new, old)
    size, domains = problem.gpus_per_domain, problem.num_domains
    blocks = common.reshape(domains, size, domains, size)
    worth = np.zeros((domains, domains), dtype=np.int64)
    inside: dict[tuple[int, int], Ints] = {}
    for source in range(domains):
        for target in range(domains):
            block = blocks[source, :, target, :]
            rows, columns = linear_sum_assignment(block, maximize=True)
            worth[source, target] = block[rows, columns].sum()
            inside[source, target] = rows[np.argsort(columns)]
    sources, targets = linear_sum_assignment(worth, maximize=True)
    renamed = np.empty(problem.num_gpus, dtype=np.int64)
    for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
        renamed[target * size : (target + 1) * size] = source * size + inside[source, target]
    return renamed


def _common(problem: Problem, new: list[list[int]], old: list[list[int]]) -> Ints:
    """[new GPU, old GPU]: slots they share, repeats counted; FORBIDDEN where their slot counts differ."""
    gpus, experts = problem.num_gpus, problem.num_experts
    slot_gpu = problem.gpu_of_slot
    held = np.zeros((2, gpus, experts), dtype=np.int64)
    for side, placement in enumerate((new, old)):
        np.add.at(held[side], (slot_gpu, np.concatenate(placement).astype(np.int64)), 1)
    common = np.minimum(held[0][:, None, :], held[1][None, :, :]).sum(2)
    width = problem.slots_per_gpu
    result: Ints = np.where(width[:, None] == width[None, :], common, FORBIDDEN)
    return result


def _keep_slots(new: list[int], old: list[int]) -> list[int]:
    """The experts of `new`, those that `old` has too in their old places."""
    left = Counter(new)
    placed = [-1] * len(old)
    for slot, expert in enumerate(old):
        if left[expert]:
            left[expert] -= 1
            placed[slot] = expert
    rest = iter(sorted(left.elements()))
    return [next(rest) if expert < 0 else expert for expert in placed]
