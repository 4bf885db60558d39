"""The published policy (hierarchical or global, greedy), on all layers at once.

Called by `api.py` for `policy="deepseek"` and by `balanced.py` as the plan to beat. The rule it keeps: the same
placement, bit for bit, as the published steps taken layer by layer in torch. That fixes three things that look
free: sums and quotients are float32, sorting is torch's own default sort (which orders ties in its own way),
and a tie between packs or experts goes to the lowest index.

A step of the greedy loops costs a handful of NumPy calls over all layers, instead of a Python loop over packs
for each item of each layer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from threefs.compute_kernels.eplb.problem import Ints, Problem

Singles = npt.NDArray[np.float32]


class Replicas(NamedTuple):
    """Which expert each replica stands for, before replicas have a GPU."""

    expert: Ints  # [rows, replicas]
    rank: Ints  # [rows, replicas]: 0 for an expert's first replica, 1 for its second, ...
    counts: Ints  # [rows, experts]


class Placement(NamedTuple):
    """A plan in slot order: slot s of a layer holds replica `rank` of `expert`."""

    expert: Ints  # [layers, replicas]
    rank: Ints  # [layers, replicas]
    counts: Ints  # [layers, experts]


def place_published(problem: Problem) -> Placement:
    """The published placement of `problem`, whose sizes `Problem.check_published` has accepted."""
    hierarchical = problem.num_groups % problem.num_nodes == 0
    groups, nodes = (problem.num_groups, problem.num_nodes) if hierarchical else (1, 1)
    layers, experts = problem.weight.shape

    expert_at = _experts_by_node(problem.weight, groups, nodes)
    weight: Singles = np.take_along_axis(problem.weight.numpy(), expert_at, 1).reshape(layers * nodes, experts // nodes)
    replicas = replicate(weight, problem.num_replicas // nodes)
    per_replica: Singles = np.divide(weight, replicas.counts, dtype=np.float32)
    share: Singles = np.take_along_axis(per_replica, replicas.expert, 1)
    gpu, position = pack(share, problem.num_gpus // nodes)

    slots_per_gpu = problem.num_replicas // problem.num_gpus
    at_slot = _inverse(gpu * slots_per_gpu + position)
    local_expert = np.take_along_axis(replicas.expert, at_slot, 1)
    first_of_node = np.arange(nodes, dtype=np.int64) * (experts // nodes)
    by_node = local_expert.reshape(layers, nodes, -1) + first_of_node[None, :, None]
    count = np.empty((layers, experts), dtype=np.int64)
    np.put_along_axis(count, expert_at, replicas.counts.reshape(layers, experts), 1)
    return Placement(
        expert=np.take_along_axis(expert_at, by_node.reshape(layers, -1), 1),
        rank=np.take_along_axis(replicas.rank, at_slot, 1).reshape(layers, -1),
        counts=count,
    )


def pack(weight: Singles, packs: int) -> tuple[Ints, Ints]:
    """Items of each row into packs of equal count: heaviest first, each into the lightest pack with room.

    `weight` is [rows, items]; gives (pack, position in pack), both [rows, items].
    """
    rows, items = weight.shape
    room = items // packs
    if room == 1:
        pack_of = np.broadcast_to(np.arange(items, dtype=np.int64), weight.shape)
        return pack_of, np.zeros(weight.shape, dtype=np.int64)
    order = torch.from_numpy(weight).sort(-1, descending=True).indices.numpy()
    descending = np.ascontiguousarray(np.take_along_axis(weight, order, 1).T)
    load = np.zeros((rows, packs), dtype=np.float32)
    held = np.zeros(rows * packs, dtype=np.int64)
    flat_load = load.reshape(-1)
    first = np.arange(rows, dtype=np.int64) * packs
    chosen = np.empty((items, rows), dtype=np.int64)
    position = np.empty((items, rows), dtype=np.int64)
    for item in range(items):
        lightest = load.argmin(1)
        chosen[item] = lightest
        at = first + lightest
        taken = held[at]
        position[item] = taken
        held[at] = taken + 1
        flat_load[at] = np.where(taken + 1 == room, np.float32(np.inf), flat_load[at] + descending[item])
    pack_of = np.empty((rows, items), dtype=np.int64)
    position_of = np.empty((rows, items), dtype=np.int64)
    np.put_along_axis(pack_of, order, chosen.T, 1)
    np.put_along_axis(position_of, order, position.T, 1)
    return pack_of, position_of


def replicate(weight: Singles, num_replicas: int) -> Replicas:
    """One replica of each expert, then one at a time for the expert with the greatest load per replica."""
    rows, experts = weight.shape
    expert = np.empty((rows, num_replicas), dtype=np.int64)
    rank = np.zeros((rows, num_replicas), dtype=np.int64)
    expert[:, :experts] = np.arange(experts)
    count = np.ones((rows, experts), dtype=np.int64)
    share = weight.astype(np.float32, copy=True)
    flat_weight, flat_count, flat_share = weight.reshape(-1), count.reshape(-1), share.reshape(-1)
    first = np.arange(rows, dtype=np.int64) * experts
    for replica in range(experts, num_replicas):
        hottest = share.argmax(1)
        at = first + hottest
        expert[:, replica] = hottest
        rank[:, replica] = flat_count[at]
        flat_count[at] += 1
        flat_share[at] = flat_weight[at] / flat_count[at].astype(np.float32)
    return Replicas(expert, rank, count)


def _experts_by_node(weight: torch.Tensor, groups: int, nodes: int) -> Ints:
    """[layers, experts]: the experts of each layer listed node by node, whole groups together."""
    layers, experts = weight.shape
    group_size = experts // groups
    group_load = weight.reshape(layers, groups, group_size).sum(-1)
    node, position = pack(group_load.numpy(), nodes)
    group_at = _inverse(node * (groups // nodes) + position)
    members = group_at[:, :, None] * group_size + np.arange(group_size, dtype=np.int64)
    return members.reshape(layers, experts)


def _inverse(permutation: Ints) -> Ints:
    inverse = np.empty_like(permutation)
    np.put_along_axis(inverse, permutation, np.arange(permutation.shape[1], dtype=np.int64)[None, :], 1)
    return inverse
