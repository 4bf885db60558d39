"""How one batch's tokens are split over replicas, when the batch is not what the plan was made for.

Called once a batch with the plan and the batch's loads. Both methods minimise the load of the most loaded GPU;
the rule they keep: every expert's shares sum to its load, and none is negative.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import coo_array

from threefs.compute_kernels.eplb.errors import PlacementError
from threefs.compute_kernels.eplb.plan import Plan
from threefs.compute_kernels.eplb.problem import Floats, Ints, check_weight

SWEEPS_MAX = 200
SETTLED = 1e-6  # stop when a sweep lowers no layer's peak by more than this share of it


def split_batch(plan: Plan, load: torch.Tensor, method: Literal["waterfill", "lp"] = "waterfill") -> torch.Tensor:
    """[layers, replicas] float64: the part of its expert's load that each slot should take.

    `"lp"` solves the linear program exactly. `"waterfill"` levels one expert after another over its GPUs until
    nothing moves, which tends to the same peak and is quicker.
    """
    loads = check_weight(load, "load").double().numpy()
    if loads.shape != plan.count.shape:
        raise PlacementError("load", f"expected shape {list(plan.count.shape)}, got {list(loads.shape)}")
    if method not in ("waterfill", "lp"):
        raise PlacementError("method", f'expected "waterfill" or "lp", got {method!r}')
    solve = _solve_lp if method == "lp" else _waterfill
    gpu = plan.problem.gpu_of_slot
    return torch.from_numpy(
        np.stack([solve(expert, gpu, row) for expert, row in zip(plan.slot_expert, loads, strict=True)])
    )


def round_split(plan: Plan, split: torch.Tensor) -> torch.Tensor:
    """Whole tokens, int64: each expert's total is kept, largest remainders go up first."""
    shares = split.numpy()
    rounded = np.floor(shares).astype(np.int64)
    for layer in range(shares.shape[0]):
        for expert in range(plan.problem.num_experts):
            slots = np.flatnonzero(plan.slot_expert[layer] == expert)
            remainder = shares[layer, slots] - rounded[layer, slots]
            missing = round(float(shares[layer, slots].sum())) - int(rounded[layer, slots].sum())
            rounded[layer, slots[np.argsort(-remainder, kind="stable")[:missing]]] += 1
    return torch.from_numpy(rounded)


def _solve_lp(expert: Ints, gpu: Ints, load: Floats) -> Floats:
    """Minimise t with the shares x >= 0, each expert's summing to its load, each GPU's to t at most."""
    slots, gpus = expert.size, int(gpu.max()) + 1
    scale = float(load.sum()) or 1.0
    slot = np.arange(slots)
    ones = np.ones(slots)
    of_expert = coo_array((ones, (expert, slot)), shape=(load.size, slots + 1))
    of_gpu = coo_array(
        (
            np.concatenate([ones, -np.ones(gpus)]),
            (np.concatenate([gpu, np.arange(gpus)]), np.concatenate([slot, np.full(gpus, slots)])),
        ),
        shape=(gpus, slots + 1),
    )
    cost = np.zeros(slots + 1)
    cost[-1] = 1.0
    answer = linprog(
        cost, A_ub=of_gpu.tocsr(), b_ub=np.zeros(gpus), A_eq=of_expert.tocsr(), b_eq=load / scale, method="highs"
    )
    if not answer.success:
        raise PlacementError("load", f"the linear program failed: {answer.message}")
    result: Floats = np.maximum(answer.x[:-1], 0.0) * scale
    return result


def _waterfill(expert: Ints, gpu: Ints, load: Floats) -> Floats:
    """Level each expert over its GPUs in turn.

    This is coordinate descent on the sum of squared GPU loads. Its minimum also has the least peak, because
    the reachable loads form a polymatroid, in which one vector is the most even by every measure at once.
    """
    count = np.bincount(expert, minlength=load.size)
    share: Floats = load[expert] / count[expert]
    total = np.bincount(gpu, weights=share).astype(np.float64)
    slots_of = [np.flatnonzero(expert == each) for each in np.flatnonzero(count > 1)]
    slots_of.sort(key=lambda slots: -float(load[expert[slots[0]]]))
    peak = total.max()
    for _ in range(SWEEPS_MAX):
        for slots in slots_of:
            _level(share, total, slots, gpu[slots])
        before, peak = peak, total.max()
        if before - peak <= SETTLED * before:
            break
    return share


def _level(share: Floats, total: Floats, slots: Ints, gpus: Ints) -> None:
    """Pour one expert's load over its slots so that the lowest GPUs rise to one level."""
    amount = float(share[slots].sum())
    np.subtract.at(total, gpus, share[slots])
    places, slot_at = np.unique(gpus, return_inverse=True)
    floor = total[places]
    order = np.argsort(floor, kind="stable")
    levels = (np.cumsum(floor[order]) + amount) / np.arange(1, places.size + 1)
    reached = int(np.flatnonzero(levels >= floor[order])[-1])
    poured = np.maximum(levels[reached] - floor, 0.0)
    poured[order[reached + 1 :]] = 0.0
    share[slots] = (poured / np.bincount(slot_at))[slot_at]
    total[places] = floor + poured
