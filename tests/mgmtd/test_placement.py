"""Placement: every plan is well-formed, small ones are as even as any can be, the same arguments give the same plan."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from threefs.common.errors import BadRequest
from threefs.common.ids import NodeId
from threefs.mgmtd.placement import Groups, group, plan

pytestmark = pytest.mark.unit


def shared(found: Groups) -> Counter[tuple[int, int]]:
    return Counter(pair for members in found.groups for pair in combinations(sorted(members), 2))


@pytest.mark.parametrize(
    ("nodes", "per_node", "size", "expected"),
    [
        (3, 8, 3, 8),  # one machine's cluster: everybody with everybody
        (4, 3, 3, 2),
        (6, 5, 3, 2),  # the example of the design notes of 3FS
        (7, 3, 3, 1),  # the Fano plane
        (9, 4, 3, 1),  # the affine plane of order 3
        (5, 6, 3, 3),
        (13, 4, 4, 1),  # the projective plane of order 3
    ],
)
def test_a_balanced_design_is_found_where_there_is_one(nodes: int, per_node: int, size: int, expected: int) -> None:
    found = group(nodes, per_node=per_node, size=size)
    assert found.exact
    assert (found.shared_min, found.shared_max) == (expected, expected)
    assert set(shared(found).values()) == {expected}


@pytest.mark.parametrize(("nodes", "per_node", "size"), [(5, 3, 3), (8, 6, 3), (10, 6, 2), (12, 5, 4), (20, 6, 3)])
def test_other_plans_pair_every_two_nodes_nearly_equally(nodes: int, per_node: int, size: int) -> None:
    found = group(nodes, per_node=per_node, size=size)
    assert found.shared_max - found.shared_min <= 1
    assert all(len(set(members)) == size for members in found.groups)
    assert set(Counter(node for members in found.groups for node in members).values()) == {per_node}


def test_heads_are_spread() -> None:
    found = group(3, per_node=6, size=3)
    assert Counter(members[0] for members in found.groups) == {0: 2, 1: 2, 2: 2}
    found = group(6, per_node=5, size=3)
    heads = Counter(members[0] for members in found.groups)
    assert max(heads.values()) - min(heads.values()) <= 1


def test_a_plan_is_stable_and_readable() -> None:
    nodes = [NodeId(n) for n in (10001, 10002, 10003)]
    found = plan(nodes, disks_per_node=2, targets_per_disk=2, replicas=3)
    assert found == plan(nodes, disks_per_node=2, targets_per_disk=2, replicas=3)
    assert [chain.chain for chain in found] == [100100001, 100100002, 100200001, 100200002]
    assert sorted(place.target for place in found[0].places) == [101000100101, 101000200101, 101000300101]
    targets = [place.target for chain in found for place in chain.places]
    assert len(set(targets)) == len(targets) == 12
    assert all(place.disk_index == 1 for chain in found[2:] for place in chain.places)


def test_wrong_numbers_are_explained() -> None:
    with pytest.raises(BadRequest, match="need at least 3 storage nodes, there are 2"):
        group(2, per_node=1, size=3)
    with pytest.raises(BadRequest, match="choose 3 or 6 targets a disk"):
        group(5, per_node=4, size=3)
    with pytest.raises(BadRequest, match="named twice"):
        plan([NodeId(1), NodeId(1)], targets_per_disk=1, replicas=1)
