"""Which targets form a chain: spreads each node's targets so that it shares chains with every other node.

When a node fails, the others of its chains take over its reads and later fill it again; the more evenly chains pair
the nodes, the more evenly that load falls. `group` makes the groups of nodes, `plan` the targets and chains of a
cluster from them. Same arguments, same plan, on every machine.

The problem is that of block designs: v nodes, each in r groups, k nodes a group, b = v·r/k groups. If
λ = r·(k-1)/(v-1) is whole and a balanced incomplete block design exists, every pair of nodes shares exactly λ groups;
otherwise each pair should share ⌊λ⌋ or ⌈λ⌉. Both are the minimum of the sum of squares of the pairs' counts. A greedy
start and simulated annealing of swaps, from a fixed seed, reach that minimum for small clusters within milliseconds
to seconds; for large ones the plan comes near it, and `Groups.exact` says which of the two it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from threefs.common.errors import BadRequest
from threefs.common.ids import ChainId, NodeId, TargetId
from threefs.mgmtd.admin import Place

STEPS_MAX = 200_000  # of annealing: about a second
TARGETS_PER_DISK_MAX = 99  # target ids have two digits for it
GROUPS_MAX = 99_999  # chain ids have five digits for it


@dataclass(frozen=True, slots=True)
class Groups:
    """`groups[i]` are indices of nodes, the head first. `exact`: no design is more even."""

    groups: tuple[tuple[int, ...], ...]
    shared_min: int  # groups that the least paired two nodes share
    shared_max: int
    exact: bool


@dataclass(frozen=True, slots=True)
class PlannedChain:
    chain: ChainId
    places: tuple[Place, ...]  # head first


def plan(
    nodes: Sequence[NodeId], *, disks_per_node: int = 1, targets_per_disk: int, replicas: int, table: int = 1
) -> list[PlannedChain]:
    """The chains of a new cluster, each over disks of the same index on different nodes.

    Ids are readable: target = table | node (6 digits) | disk + 1 (3) | number + 1 (2), chain = table | disk + 1 (3) |
    group + 1 (5). BadRequest if the numbers do not fit.
    """
    if not 1 <= disks_per_node <= 999 or not 1 <= table <= 40 or any(not 1 <= node < 10**6 for node in nodes):
        raise BadRequest(f"{disks_per_node} disks, table {table}, nodes {list(nodes)}: at most 999, 40 and 999999")
    if len(set(nodes)) < len(nodes):
        raise BadRequest(f"a node is named twice: {list(nodes)}")
    found = group(len(nodes), per_node=targets_per_disk, size=replicas)
    chains = []
    for disk in range(disks_per_node):
        used = dict.fromkeys(nodes, 0)
        for number, members in enumerate(found.groups, start=1):
            places = []
            for node in (nodes[index] for index in members):
                used[node] += 1
                target = TargetId(((table * 10**6 + node) * 1000 + disk + 1) * 100 + used[node])
                places.append(Place(target, node, disk))
            chains.append(PlannedChain(ChainId((table * 1000 + disk + 1) * 10**5 + number), tuple(places)))
    return chains


def group(nodes: int, *, per_node: int, size: int, seed: int = 0) -> Groups:
    """Groups of `size` different nodes such that each node is in `per_node` groups, paired as evenly as found."""
    _check(nodes, per_node, size)
    count = nodes * per_node // size
    ideal = _least_squares(nodes, count * math.comb(size, 2))
    design = _Design(nodes, _greedy(nodes, per_node, size, count))
    if design.squares > ideal:
        design.anneal(Random(seed), ideal)
    shared = design.pair_counts()
    return Groups(
        _ordered(design.groups, nodes), min(shared, default=0), max(shared, default=0), design.squares == ideal
    )


def _check(nodes: int, per_node: int, size: int) -> None:
    if not 1 <= size <= nodes:
        raise BadRequest(f"{size} replicas need at least {size} storage nodes, there are {nodes}")
    if not 1 <= per_node <= TARGETS_PER_DISK_MAX:
        raise BadRequest(f"{per_node} targets a disk: choose 1 to {TARGETS_PER_DISK_MAX}")
    if nodes * per_node % size:
        step = size // math.gcd(nodes, size)
        below, above = per_node // step * step, (per_node // step + 1) * step
        hint = f"{below} or {above}" if below else f"{above}"
        raise BadRequest(
            f"{nodes} disks with {per_node} targets each cannot form chains of {size}: choose {hint} targets a disk"
        )
    if nodes * per_node // size > GROUPS_MAX:
        raise BadRequest(f"{nodes * per_node // size} chains a disk index: at most {GROUPS_MAX}")


def _least_squares(nodes: int, pairings: int) -> int:
    """The least sum of squares of the pairs' counts: all equal, or differing by one."""
    pairs = math.comb(nodes, 2)
    if not pairs:
        return 0
    low, more = divmod(pairings, pairs)
    return (pairs - more) * low**2 + more * (low + 1) ** 2


def _greedy(nodes: int, per_node: int, size: int, count: int) -> list[list[int]]:
    """Fills group after group with the node that has most places left, then the one least met by the group."""
    left = [per_node] * nodes
    met = [[0] * nodes for _ in range(nodes)]
    groups: list[list[int]] = []
    for remaining in range(count, 0, -1):
        members: list[int] = []
        for _ in range(size):
            free = [node for node in range(nodes) if left[node] and node not in members]
            urgent = [node for node in free if left[node] == remaining]  # in every group from now on
            best = min(urgent or free, key=lambda node: (sum(met[node][m] for m in members), -left[node], node))
            members.append(best)
        for node in members:
            left[node] -= 1
        for a, b in combinations(members, 2):
            met[a][b] += 1
            met[b][a] += 1
        groups.append(members)
    return groups


class _Design:
    """Groups with the counts of their pairs, changed by swaps that keep every node's number of groups."""

    def __init__(self, nodes: int, groups: list[list[int]]) -> None:
        self._nodes = nodes
        self._set(groups)

    def _set(self, groups: list[list[int]]) -> None:
        self.groups = groups
        self._met = [[0] * self._nodes for _ in range(self._nodes)]
        for members in groups:
            for a, b in combinations(members, 2):
                self._add(a, b, 1)
        self.squares = sum(count**2 for count in self.pair_counts())

    def pair_counts(self) -> list[int]:
        return [self._met[a][b] for a, b in combinations(range(self._nodes), 2)]

    def _add(self, a: int, b: int, change: int) -> None:
        self._met[a][b] += change
        self._met[b][a] += change

    def anneal(self, random: Random, ideal: int) -> None:
        """Swaps members of two groups, worsening ones less and less, until `ideal` or the end of the budget."""
        best, kept = self.squares, [list(members) for members in self.groups]
        for step in range(STEPS_MAX):
            if self.squares == ideal:
                return
            heat = 2.0 * (1 - step % 20_000 / 20_000) + 0.05  # cools down, and starts again ten times
            self._try_swap(random, heat)
            if self.squares < best:
                best, kept = self.squares, [list(members) for members in self.groups]
        self._set(kept)

    def _try_swap(self, random: Random, heat: float) -> None:
        first, second = random.sample(self.groups, 2)
        i, j = random.randrange(len(first)), random.randrange(len(second))
        a, b = first[i], second[j]
        if a in second or b in first:
            return
        stay_first, stay_second = first[:i] + first[i + 1 :], second[:j] + second[j + 1 :]
        change = self._move(a, stay_first, -1) + self._move(b, stay_second, -1)
        change += self._move(b, stay_first, 1) + self._move(a, stay_second, 1)
        if change <= 0 or random.random() < math.exp(-change / heat):
            first[i], second[j] = b, a
            self.squares += change
        else:
            self._move(b, stay_first, -1)
            self._move(a, stay_second, -1)
            self._move(a, stay_first, 1)
            self._move(b, stay_second, 1)

    def _move(self, node: int, others: Iterable[int], change: int) -> int:
        """Adds `change` to the pairs of `node` with `others`; by how much the sum of squares grows."""
        grown = 0
        for other in others:
            grown += 2 * change * self._met[node][other] + 1
            self._add(node, other, change)
        return grown


def _ordered(groups: Iterable[Sequence[int]], nodes: int) -> tuple[tuple[int, ...], ...]:
    """Members in chain order: each node as often head, second … as the others, as far as a greedy choice goes."""
    held = [[0] * nodes for _ in range(nodes)]  # [position][node]
    ordered = []
    for members in groups:
        rest, chain = sorted(members), []
        for counts in held[: len(members)]:
            node = min(rest, key=counts.__getitem__)
            rest.remove(node)
            counts[node] += 1
            chain.append(node)
        ordered.append(tuple(chain))
    return tuple(ordered)
