"""A finished plan: which expert each slot holds, how loaded that leaves the GPUs, and how it differs from another.

Made by `api.make_plan`; read by weight movers, plots and tests. The rule it keeps: a plan is never changed;
whatever improves one gives a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from threefs.compute_kernels.eplb.errors import PlacementError
from threefs.compute_kernels.eplb.problem import Floats, Ints, Problem
from threefs.compute_kernels.eplb.published import Placement


@dataclass(frozen=True)
class Move:
    """One expert's weights to be written into one slot."""

    layer: int
    expert: int
    slot: int  # the slot that is to hold the expert
    gpu: int
    source_slot: int  # where the old plan holds it: same GPU if it can, else same node, else anywhere
    source_gpu: int

    @property
    def is_local(self) -> bool:
        return self.gpu == self.source_gpu


@dataclass(frozen=True)
class Plan:
    """`problem` and its answer. Slot s lies on GPU `problem.gpu_of_slot[s]`, in every layer."""

    problem: Problem
    slot_expert: Ints  # [layers, replicas]
    slot_rank: Ints  # [layers, replicas]: which of its expert's replicas the slot holds, from 0

    @classmethod
    def from_placement(cls, problem: Problem, placement: Placement) -> Plan:
        return cls(problem, placement.expert, placement.rank)

    @classmethod
    def from_experts(cls, problem: Problem, slot_expert: Ints) -> Plan:
        """Replicas numbered in slot order."""
        return cls(problem, slot_expert, rank_in_row(slot_expert, problem.num_experts))

    @cached_property
    def count(self) -> Ints:
        """[layers, experts]: replicas of each expert."""
        return count_in_row(self.slot_expert, self.problem.num_experts)

    @cached_property
    def gpu_load(self) -> Floats:
        """[layers, GPUs], when each expert's load is spread evenly over its replicas."""
        return self.gpu_load_under(self.problem.weight)

    def gpu_load_under(self, weight: torch.Tensor) -> Floats:
        """[layers, GPUs] for other loads than those the plan was made for."""
        loads = weight.double().numpy()
        share = np.take_along_axis(loads / self.count, self.slot_expert, 1)
        return sum_by_gpu(self.problem, share)

    @cached_property
    def balancedness(self) -> Floats:
        """[layers]: mean over maximum of the GPUs' loads, 1.0 when they are all equal (or all idle)."""
        return balancedness(self.gpu_load)

    @cached_property
    def num_duplicates(self) -> int:
        """Slots that hold an expert their GPU holds already: memory spent for nothing."""
        return int(duplicates_by_layer(self.problem, self.slot_expert).sum())

    def to_tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(slot to expert, expert to slots padded with -1, replica counts), int64 on the CPU."""
        layers, replicas = self.slot_expert.shape
        slots = np.full((layers, self.problem.num_experts, int(self.count.max())), -1, dtype=np.int64)
        layer = np.arange(layers)[:, None]
        slots[layer, self.slot_expert, self.slot_rank] = np.arange(replicas)
        return torch.from_numpy(self.slot_expert.copy()), torch.from_numpy(slots), torch.from_numpy(self.count)

    def diff(self, previous: Plan | torch.Tensor) -> list[Move]:
        """What must be copied to turn `previous` into this plan, one `Move` a slot whose expert changes."""
        before = previous.slot_expert if isinstance(previous, Plan) else check_previous(self.problem, previous)
        if before.shape != self.slot_expert.shape:
            raise PlacementError(
                "previous", f"shape {list(before.shape)} where this plan has {list(self.slot_expert.shape)}"
            )
        changed = np.argwhere(before != self.slot_expert)
        return [self._move(before, int(layer), int(slot)) for layer, slot in changed]

    def _move(self, before: Ints, layer: int, slot: int) -> Move:
        gpu_of_slot, expert = self.problem.gpu_of_slot, int(self.slot_expert[layer, slot])
        gpu = int(gpu_of_slot[slot])
        sources: Sequence[int] = np.flatnonzero(before[layer] == expert).tolist()

        def distance(source: int) -> tuple[bool, bool]:
            there = int(gpu_of_slot[source])
            return there != gpu, self.problem.node_of_gpu(there) != self.problem.node_of_gpu(gpu)

        source = min(sources, key=distance)
        return Move(layer, expert, slot, gpu, source, int(gpu_of_slot[source]))


def check_previous(problem: Problem, previous: torch.Tensor) -> Ints:
    """A slot-to-expert tensor of the problem's sizes that holds every expert, as an array."""
    expected = (problem.num_layers, problem.num_replicas)
    if tuple(previous.shape) != expected:
        raise PlacementError(
            "previous", f"expected slot to expert of shape {list(expected)}, got {list(previous.shape)}"
        )
    experts: Ints = previous.detach().cpu().numpy().astype(np.int64)
    if experts.min() < 0 or experts.max() >= problem.num_experts:
        raise PlacementError("previous", f"experts must lie in 0..{problem.num_experts - 1}")
    if (count_in_row(experts, problem.num_experts) == 0).any():
        raise PlacementError("previous", "every expert needs at least one slot in every layer")
    return experts


def balancedness(gpu_load: Floats) -> Floats:
    peak = gpu_load.max(1)
    mean = gpu_load.mean(1)
    result: Floats = np.where(peak > 0, mean / np.where(peak > 0, peak, 1.0), 1.0)
    return result


def sum_by_gpu(problem: Problem, share: Floats) -> Floats:
    """[layers, GPUs] from one value a slot."""
    starts = np.concatenate([[0], np.cumsum(problem.slots_per_gpu)[:-1]])
    if (problem.slots_per_gpu == 0).any():
        total = np.zeros((share.shape[0], problem.num_gpus))
        np.add.at(total.T, problem.gpu_of_slot, share.T)
        return total
    result: Floats = np.add.reduceat(share, starts, axis=1)
    return result


def count_in_row(values: Ints, bins: int) -> Ints:
    rows = values.shape[0]
    flat = values + np.arange(rows, dtype=np.int64)[:, None] * bins
    return np.bincount(flat.reshape(-1), minlength=rows * bins).reshape(rows, bins).astype(np.int64)


def rank_in_row(values: Ints, bins: int) -> Ints:
    """How often the same value came before, further left in its row."""
    order = np.argsort(values, axis=1, kind="stable")
    in_order = np.take_along_axis(values, order, 1)
    first = np.cumsum(count_in_row(values, bins), axis=1) - count_in_row(values, bins)
    rank = np.empty_like(values)
    place = np.arange(values.shape[1], dtype=np.int64)[None, :] - np.take_along_axis(first, in_order, 1)
    np.put_along_axis(rank, order, place, 1)
    return rank


def duplicates_by_layer(problem: Problem, slot_expert: Ints) -> Ints:
    """[layers]: slots whose expert the same GPU holds in an earlier slot."""
    key = np.sort(slot_expert + problem.gpu_of_slot[None, :] * problem.num_experts, axis=1)
    result: Ints = (key[:, 1:] == key[:, :-1]).sum(1)
    return result
