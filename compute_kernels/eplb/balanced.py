"""`policy="balanced"`: the published plan to beat, ours from scratch, both refined by swaps; the best a layer.

Called by `api.py`. The rules it keeps: no GPU holds an expert twice whenever the replicas fit that way; a
layer is never worse than the published plan where that has no duplicates (with `allow_duplicates`, never at
all), because the published plan is one of the candidates.
"""

from __future__ import annotations

import numpy as np

from threefs.compute_kernels.eplb.errors import PlacementError
from threefs.compute_kernels.eplb.plan import Plan, duplicates_by_layer
from threefs.compute_kernels.eplb.problem import Bools, Floats, Ints, Problem
from threefs.compute_kernels.eplb.published import place_published
from threefs.compute_kernels.eplb.swaps import EMPTY, Table, place_greedily, refine, remove_duplicates

GROUP_SWAPS_MAX = 64
SLOT_SWAPS_PER_GPU_MAX = 16


def place_balanced(problem: Problem, allow_duplicates: bool) -> Plan:
    """The best plan found, layer by layer, by the highest load of a GPU."""
    swaps_max = SLOT_SWAPS_PER_GPU_MAX * problem.gpus_per_domain
    candidates = [_place_from_scratch(problem, allow_duplicates, swaps_max)]
    published = _published_if_legal(problem)
    if published is not None:
        candidates += [published, _refined(problem, published, allow_duplicates, swaps_max)]
    peak = np.stack([_peak(problem, candidate, allow_duplicates) for candidate in candidates])
    best = peak.argmin(0)
    chosen = np.stack(candidates)[best, np.arange(problem.num_layers)]
    return Plan.from_experts(problem, chosen)


def _peak(problem: Problem, slot_expert: Ints, allow_duplicates: bool) -> Floats:
    """Highest GPU load of each layer; a layer with more duplicates than another loses whatever its load."""
    peak: Floats = Plan.from_experts(problem, slot_expert).gpu_load.max(1)
    if allow_duplicates:
        return peak
    penalty = problem.loads.sum(1) + 1.0
    result: Floats = peak + duplicates_by_layer(problem, slot_expert) * penalty
    return result


def _published_if_legal(problem: Problem) -> Ints | None:
    try:
        problem.check_published()
    except PlacementError:
        return None
    return place_published(problem).expert


def _place_from_scratch(problem: Problem, allow_duplicates: bool, swaps_max: int) -> Ints:
    expert_at = _experts_by_domain(problem)  # [layers, experts], domain after domain
    layers, domains = problem.num_layers, problem.num_domains
    loads = np.take_along_axis(problem.loads, expert_at, 1).reshape(layers * domains, -1)
    capacity = np.tile(problem.slots_per_gpu.reshape(domains, -1), (layers, 1))
    items, per_replica = _replicas(loads, capacity)
    table = place_greedily(items, per_replica, capacity, allow_duplicates)
    if not allow_duplicates:
        remove_duplicates(table)
    refine(table, steps_max=swaps_max)
    flat = table.expert.reshape(layers, domains, -1)
    names = expert_at.reshape(layers, domains, -1)
    in_slots = np.where(flat == EMPTY, EMPTY, np.take_along_axis(names, flat, 2)).reshape(layers, -1)
    filled: Ints = in_slots[:, _present(problem).reshape(-1)]
    return filled


def _refined(problem: Problem, slot_expert: Ints, allow_duplicates: bool, swaps_max: int) -> Ints:
    """An even placement, mended and refined inside its domains."""
    domains, layers = problem.num_domains, problem.num_layers
    count = Plan.from_experts(problem, slot_expert).count
    per_replica = np.repeat(problem.loads / count, domains, axis=0)
    expert = slot_expert.reshape(layers * domains, problem.gpus_per_domain, -1).copy()
    table = Table.from_experts(expert, per_replica, allow_duplicates)
    if not allow_duplicates:
        remove_duplicates(table)
    refine(table, steps_max=swaps_max)
    return table.expert.reshape(layers, -1)


def _present(problem: Problem) -> Bools:
    """[gpus, widest]: which places of the widest table are slots."""
    widest = int(problem.slots_per_gpu.max())
    result: Bools = np.arange(widest)[None, :] < problem.slots_per_gpu[:, None]
    return result


def _experts_by_domain(problem: Problem) -> Ints:
    layers, experts = problem.weight.shape
    if problem.num_domains == 1:
        return np.tile(np.arange(experts, dtype=np.int64), (layers, 1))
    groups, nodes = problem.num_groups, problem.num_nodes
    group_load = problem.loads.reshape(layers, groups, -1).sum(2)
    items = np.tile(np.arange(groups, dtype=np.int64), (layers, 1))
    room = np.full((layers, nodes), groups // nodes, dtype=np.int64)
    table = place_greedily(items, group_load, room, allow_duplicates=True)
    refine(table, steps_max=GROUP_SWAPS_MAX)
    size = experts // groups
    members = table.expert.reshape(layers, groups)[:, :, None] * size + np.arange(size, dtype=np.int64)
    return members.reshape(layers, experts)


def _replicas(loads: Floats, capacity: Ints) -> tuple[Ints, Floats]:
    """Experts of each row repeated by replica, EMPTY past the row's slots, and each expert's load a replica.

    At most one replica of an expert a GPU, as far as the slots can be filled that way.
    """
    rows, experts = loads.shape
    slots = capacity.sum(1)
    gpus = (capacity > 0).sum(1)
    every = np.arange(rows)
    items = np.full((rows, int(slots.max())), EMPTY, dtype=np.int64)
    items[:, :experts] = np.arange(experts)
    count = np.ones((rows, experts), dtype=np.int64)
    share = loads.copy()
    limited = slots <= experts * gpus
    share[(limited & (gpus == 1))] = -np.inf
    for place in range(experts, items.shape[1]):
        row = every[place < slots]
        hottest = share[row].argmax(1)
        items[row, place] = hottest
        count[row, hottest] += 1
        at_limit = limited[row] & (count[row, hottest] >= gpus[row])
        share[row, hottest] = np.where(at_limit, -np.inf, loads[row, hottest] / count[row, hottest])
    return items, loads / count
