"""`policy="incremental"`: change the old placement step by step until it is balanced well enough.

Called by `api.py`. A step either copies an expert of the hottest GPU over a replica that another expert can
spare (one move), or swaps two slots (two moves). The rule it keeps: the step taken is the one that lowers the
potential most for each move, so moves are spent where they count.

The potential is the sum of the GPU loads to the eighth power: it follows the peak, and unlike the peak it falls
when one of several equally hot GPUs is relieved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from threefs.compute_kernels.eplb.plan import Plan
from threefs.compute_kernels.eplb.problem import Floats, Ints, Problem

GAIN_MIN = 1e-9
STEPS_PER_SLOT_MAX = 2


class Step(NamedTuple):
    gain_per_move: float
    moves: int
    writes: tuple[tuple[int, int], ...]  # (slot, expert)


def place_incrementally(
    problem: Problem, previous: Ints, *, moves_max: int | None, target: float, allow_duplicates: bool
) -> Plan:
    """`previous` changed until each layer's balancedness reaches `target`, by `moves_max` moves a layer at most.

    When hierarchical, experts stay on their node. A layer that no step improves stays short of the target.
    """
    slot_expert = previous.copy()
    for layer in range(problem.num_layers):
        work = _Layer(problem, slot_expert[layer], problem.loads[layer], allow_duplicates)
        budget = moves_max if moves_max is not None else STEPS_PER_SLOT_MAX * problem.num_replicas
        while budget > 0 and work.balancedness() < target:
            step = work.best_step(budget)
            if step is None:
                break
            work.take(step)
            budget -= step.moves
    return Plan.from_experts(problem, slot_expert)


class _Layer:
    """One layer's slots; `take` changes the array it was given."""

    def __init__(self, problem: Problem, experts: Ints, loads: Floats, allow_duplicates: bool) -> None:
        self.experts = experts
        self.loads = loads / (loads.sum() or 1.0) * problem.num_gpus  # mean GPU load 1, so powers stay in range
        self.gpu_of_slot = problem.gpu_of_slot
        self.domain_of_gpu = np.arange(problem.num_gpus) // problem.gpus_per_domain
        self.allow_duplicates = allow_duplicates
        self.holds = np.zeros((loads.size, problem.num_gpus), dtype=np.int64)
        np.add.at(self.holds, (experts, self.gpu_of_slot), 1)
        self._weigh()

    def _weigh(self) -> None:
        self.count = self.holds.sum(1)
        self.share = self.loads / self.count
        self.gpu_load: Floats = self.share @ self.holds

    def balancedness(self) -> float:
        peak = float(self.gpu_load.max())
        return float(self.gpu_load.mean()) / peak if peak > 0 else 1.0

    def take(self, step: Step) -> None:
        for slot, expert in step.writes:
            self.holds[self.experts[slot], self.gpu_of_slot[slot]] -= 1
            self.holds[expert, self.gpu_of_slot[slot]] += 1
            self.experts[slot] = expert
        self._weigh()

    def best_step(self, budget: int) -> Step | None:
        """The step with the greatest fall of the potential a move, or None if none lowers it."""
        hot = int(self.gpu_load.argmax())
        reachable = np.flatnonzero((self.domain_of_gpu == self.domain_of_gpu[hot])[self.gpu_of_slot])
        mine = reachable[self.gpu_of_slot[reachable] == hot]
        others = reachable[self.gpu_of_slot[reachable] != hot]
        options = [self._best_copy(np.unique(self.experts[mine]), reachable)]
        if budget >= 2:
            options.append(self._best_swap(mine, others))
        floor = GAIN_MIN * float((self.gpu_load**8).sum())
        useful = [option for option in options if option is not None and option.gain_per_move > floor]
        return max(useful, key=lambda option: option.gain_per_move, default=None)

    def _best_copy(self, wanted: Ints, slots: Ints) -> Step | None:
        """One more replica of a `wanted` expert over a slot whose expert has another."""
        spare = slots[self.count[self.experts[slots]] > 1]
        if not spare.size or not wanted.size:
            return None
        given_up, gpu = self.experts[spare], self.gpu_of_slot[spare]
        thinner = self.loads[wanted] / (self.count[wanted] + 1)
        thicker = self.loads[given_up] / (self.count[given_up] - 1)
        relief = (thinner - self.share[wanted])[:, None] * self.holds[wanted]
        burden = (thicker - self.share[given_up])[:, None] * self.holds[given_up]
        load = self.gpu_load + relief[:, None, :] + burden[None, :, :]  # [wanted, spare, gpus]
        load[:, np.arange(spare.size), gpu] += thinner[:, None] - thicker[None, :]
        gain = (self.gpu_load**8).sum() - (load**8).sum(2)
        barred = wanted[:, None] == given_up[None, :]
        if not self.allow_duplicates:
            barred = barred | (self.holds[wanted[:, None], gpu[None, :]] > 0)
        gain[barred] = -np.inf
        expert, slot = np.unravel_index(int(gain.argmax()), gain.shape)
        return Step(float(gain[expert, slot]), 1, ((int(spare[slot]), int(wanted[expert])),))

    def _best_swap(self, mine: Ints, others: Ints) -> Step | None:
        """The best exchange of a slot of `mine` with one of `others`."""
        if not mine.size or not others.size:
            return None
        here, there = self.experts[mine], self.experts[others]
        gpu_here, gpu_there = self.gpu_of_slot[mine], self.gpu_of_slot[others]
        moved = self.share[here][:, None] - self.share[there][None, :]
        load_here, load_there = self.gpu_load[gpu_here][:, None], self.gpu_load[gpu_there][None, :]
        gain = load_here**8 + load_there**8 - (load_here - moved) ** 8 - (load_there + moved) ** 8
        barred = here[:, None] == there[None, :]
        if not self.allow_duplicates:
            barred = barred | (self.holds[here[:, None], gpu_there[None, :]] > 0)
            barred = barred | (self.holds[there[None, :], gpu_here[:, None]] > 0)
        gain[barred] = -np.inf
        a, b = np.unravel_index(int(gain.argmax()), gain.shape)
        writes = ((int(mine[a]), int(there[b])), (int(others[b]), int(here[a])))
        return Step(float(gain[a, b]) / 2, 2, writes)
