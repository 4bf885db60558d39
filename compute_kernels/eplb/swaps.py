"""Slots on GPUs as a table that can be mended: place, remove duplicates, swap until no swap helps.

Used by `balanced.py` on rows (one row is one layer, or one node of one layer). The rule it keeps: with
`allow_duplicates` false, no step adds a second replica of an expert to a GPU that has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from threefs.compute_kernels.eplb.problem import Bools, Floats, Ints

GAIN_MIN = 1e-9  # a swap must lower the pair's peak by this share, or rounding could make swaps go in circles
EMPTY = -1


@dataclass
class Table:
    """`expert[row, gpu, slot]`, EMPTY where a GPU has fewer slots than the widest; `share` is the load there."""

    expert: Ints
    share: Floats
    holds: Ints  # [rows, gpus, experts]: replicas of the expert on the GPU
    allow_duplicates: bool

    @classmethod
    def from_experts(cls, expert: Ints, load_per_replica: Floats, allow_duplicates: bool) -> Table:
        rows, gpus, _ = expert.shape
        present = expert != EMPTY
        share = np.where(present, load_per_replica[np.arange(rows)[:, None, None], expert], 0.0)
        holds = np.zeros((rows, gpus, load_per_replica.shape[1]), dtype=np.int64)
        row, gpu, slot = np.nonzero(present)
        np.add.at(holds, (row, gpu, expert[row, gpu, slot]), 1)
        return cls(expert, share, holds, allow_duplicates)

    def load(self) -> Floats:
        result: Floats = self.share.sum(2)
        return result

    def swap(self, row: Ints, gpu_a: Ints, slot_a: Ints, gpu_b: Ints, slot_b: Ints) -> None:
        """Exchange two slots in each of the rows; a row appears once."""
        expert_a, expert_b = self.expert[row, gpu_a, slot_a], self.expert[row, gpu_b, slot_b]
        share_a, share_b = self.share[row, gpu_a, slot_a], self.share[row, gpu_b, slot_b]
        self.expert[row, gpu_a, slot_a], self.expert[row, gpu_b, slot_b] = expert_b, expert_a
        self.share[row, gpu_a, slot_a], self.share[row, gpu_b, slot_b] = share_b, share_a
        self.holds[row, gpu_a, expert_a] -= 1
        self.holds[row, gpu_b, expert_a] += 1
        self.holds[row, gpu_b, expert_b] -= 1
        self.holds[row, gpu_a, expert_b] += 1


def place_greedily(items: Ints, load_per_replica: Floats, capacity: Ints, allow_duplicates: bool) -> Table:
    """`items` [rows, slots] are experts, EMPTY at the end of short rows; `capacity` [rows, gpus] their room.

    Heaviest first, each to the lightest GPU with room that lacks the expert, or with room at all.
    """
    rows, gpus = capacity.shape
    every = np.arange(rows)
    load_of_item = np.where(items == EMPTY, -1.0, load_per_replica[every[:, None], items])
    order = np.argsort(-load_of_item, axis=1, kind="stable")
    expert = np.full((rows, gpus, int(capacity.max())), EMPTY, dtype=np.int64)
    used = np.zeros((rows, gpus), dtype=np.int64)
    load = np.zeros((rows, gpus))
    holds = np.zeros((rows, gpus, load_per_replica.shape[1]), dtype=bool)
    for step in range(items.shape[1]):
        item = items[every, order[:, step]]
        row = every[item != EMPTY]
        item = item[row]
        full = used[row] >= capacity[row]
        blocked = full if allow_duplicates else full | holds[row, :, item]
        stuck = blocked.all(1)
        blocked[stuck] = full[stuck]
        gpu = np.where(blocked, np.inf, load[row]).argmin(1)
        expert[row, gpu, used[row, gpu]] = item
        used[row, gpu] += 1
        load[row, gpu] += load_per_replica[row, item]
        holds[row, gpu, item] = True
    return Table.from_experts(expert, load_per_replica, allow_duplicates)


def remove_duplicates(table: Table) -> None:
    """Swap second replicas away. Ends with none wherever each expert has at most as many replicas as GPUs.

    Take a duplicate of e on GPU a, and a GPU b without e. Either b has an expert that a lacks, and the swap
    removes a duplicate from a and adds none; or all that b has is on a too, so b repeats one itself, and
    swapping that one removes it. Each swap lowers the number of duplicates, which bounds the loop.
    """
    for row, gpu in np.argwhere((table.holds > 1).any(2)):
        while (repeated := np.flatnonzero(table.holds[row, gpu] > 1)).size:
            if not any(_spread(table, int(row), int(gpu), int(expert)) for expert in repeated):
                break


def _spread(table: Table, row: int, gpu: int, expert: int) -> bool:
    slot = int(np.flatnonzero(table.expert[row, gpu] == expert)[-1])
    here = table.share[row, gpu, slot]
    best: tuple[float, int, int] | None = None
    for other in np.flatnonzero(table.holds[row, :, expert] == 0):
        theirs = table.expert[row, other]
        usable = theirs != EMPTY
        usable &= (table.holds[row, gpu, theirs] == 0) | (table.holds[row, other, theirs] > 1)
        for candidate in np.flatnonzero(usable):
            cost = abs(float(table.share[row, other, candidate] - here))
            if best is None or cost < best[0]:
                best = (cost, int(other), int(candidate))
    if best is None:
        return False
    table.swap(*(np.array([value]) for value in (row, gpu, slot, *best[1:])))
    return True


def refine(table: Table, *, steps_max: int) -> None:
    """Swap between the hottest GPU and others, the best swap first, until no swap lowers a row's peak pair.

    First against the lightest GPU alone, which is cheap and nearly always enough, then against all.
    """
    rows, gpus, _ = table.expert.shape
    if gpus == 1:
        return
    for partners in dict.fromkeys((1, gpus)):
        row = np.arange(rows)
        for _ in range(steps_max):
            if not row.size:
                break
            row = row[_refine_step(table, row, partners)]


def _refine_step(table: Table, row: Ints, partners: int) -> Bools:
    """The best swap of each row's hottest GPU with one of its `partners` lightest; true where one was made."""
    load = table.share[row].sum(2)
    hot = load.argmax(1)
    everyone = np.broadcast_to(np.arange(load.shape[1]), load.shape)
    others = load.argmin(1)[:, None] if partners == 1 else everyone
    peak = load[np.arange(row.size), hot]
    hot_expert, hot_share = table.expert[row, hot], table.share[row, hot]  # [rows, slots]
    expert, share = table.expert[row[:, None], others], table.share[row[:, None], others]  # [rows, partners, slots]
    moved = hot_share[:, :, None, None] - share[:, None, :, :]
    other_load = np.take_along_axis(load, others, 1)
    pair_peak = np.maximum(peak[:, None, None, None] - moved, other_load[:, None, :, None] + moved)
    barred = (expert == EMPTY)[:, None] | (hot_expert == EMPTY)[:, :, None, None]
    if not table.allow_duplicates:
        here = table.holds[row[:, None, None], hot[:, None, None], expert] > 0
        there = table.holds[row[:, None, None], others[:, None, :], hot_expert[:, :, None]] > 0
        barred = barred | here[:, None] | there[..., None]
    pair_peak[barred] = np.inf
    flat = pair_peak.reshape(row.size, -1)
    best = flat.argmin(1)
    improved: Bools = flat[np.arange(row.size), best] < peak * (1.0 - GAIN_MIN)
    slot_a, which, slot_b = np.unravel_index(best[improved], pair_peak.shape[1:])
    chosen = row[improved]
    gpu_b = others[improved, which]
    table.swap(chosen, hot[improved], slot_a.astype(np.int64), gpu_b, slot_b.astype(np.int64))
    return improved
