"""The published placement, step by step and layer by layer in torch: slow, plain, and the yardstick."""

from __future__ import annotations

import torch
from torch import Tensor


def _fill_packs(weight: Tensor, packs: int) -> tuple[Tensor, Tensor]:
    room = weight.numel() // packs
    pack = torch.arange(weight.numel())
    position = torch.zeros(weight.numel(), dtype=torch.int64)
    if room == 1:
        return pack, position
    load = [torch.zeros(()) for _ in range(packs)]
    held = [0] * packs
    for item in weight.sort(-1, descending=True).indices.tolist():
        lightest = min((p for p in range(packs) if held[p] < room), key=load.__getitem__)
        pack[item], position[item] = lightest, held[lightest]
        load[lightest] = load[lightest] + weight[item]
        held[lightest] += 1
    return pack, position


def _add_replicas(weight: Tensor, replicas: int) -> tuple[Tensor, Tensor, Tensor]:
    experts = weight.numel()
    expert, rank = torch.arange(replicas), torch.zeros(replicas, dtype=torch.int64)
    count = torch.ones(experts, dtype=torch.int64)
    for replica in range(experts, replicas):
        hottest = (weight / count).max(dim=-1).indices
        expert[replica], rank[replica] = hottest, count[hottest]
        count[hottest] += 1
    return expert, rank, count


def _place_layer(weight: Tensor, replicas: int, groups: int, nodes: int, gpus: int) -> tuple[Tensor, Tensor, Tensor]:
    experts = weight.numel()
    group_size = experts // groups
    node_of, place_of = _fill_packs(weight.reshape(groups, group_size).sum(-1), nodes)
    slots_node, slots_gpu = replicas // nodes, replicas // gpus
    slot_expert = torch.full((replicas,), -1)
    slot_rank = torch.full((replicas,), -1)
    counts = torch.zeros(experts, dtype=torch.int64)
    for node in range(nodes):
        mine = sorted((g for g in range(groups) if node_of[g] == node), key=lambda g: int(place_of[g]))
        members = torch.cat([torch.arange(g * group_size, (g + 1) * group_size) for g in mine])
        expert, rank, count = _add_replicas(weight[members], slots_node)
        gpu, place = _fill_packs((weight[members] / count)[expert], gpus // nodes)
        slot = node * slots_node + gpu * slots_gpu + place
        slot_expert[slot], slot_rank[slot] = members[expert], rank
        counts[members] = count
    return slot_expert, slot_rank, counts


def rebalance_oracle(
    weight: Tensor, replicas: int, groups: int, nodes: int, gpus: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(slot to expert, expert to slots padded with -1, replica counts), all int64 on the CPU."""
    weight = weight.float().cpu()
    if groups % nodes != 0:
        groups, nodes = 1, 1
    layers = [_place_layer(row, replicas, groups, nodes, gpus) for row in weight]
    expert = torch.stack([layer[0] for layer in layers])
    rank = torch.stack([layer[1] for layer in layers])
    count = torch.stack([layer[2] for layer in layers])
    slots = torch.full((*weight.shape, int(count.max())), -1)
    for layer in range(weight.shape[0]):
        slots[layer, expert[layer], rank[layer]] = torch.arange(replicas)
    return expert, slots, count
