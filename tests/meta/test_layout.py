"""The chain shuffle: its test vectors, and what must hold for every table."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefs.common.errors import BadRequest, NotServing
from threefs.common.files import Layout
from threefs.common.ids import ChainId, ChainTableId, RoutingVersion
from threefs.common.rendezvous import mix, owner
from threefs.common.routing import ChainTable, Routing
from threefs.common.runtime.real import RealRuntime
from threefs.meta.layout import LayoutPicker, merge_layout, pick_chains

pytestmark = pytest.mark.unit
TABLE = ChainTableId(1)


def chains(count: int) -> tuple[ChainId, ...]:
    return tuple(ChainId(i) for i in range(count))


def test_mix_is_the_published_finaliser() -> None:
    """The first outputs of splitmix64 seeded with 0 are mix(0), mix(golden gamma), …"""
    gamma = 0x9E3779B97F4A7C15
    assert [mix(0), mix(gamma), mix(2 * gamma % 2**64)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@pytest.mark.parametrize(
    ("count", "stripe", "base", "seed", "expected"),
    [
        (1, 1, 0, 0x0, (0,)),
        (8, 4, 0, 0x0, (0, 2, 3, 1)),
        (8, 8, 5, 0x20000, (0, 2, 1, 4, 6, 5, 7, 3)),
        (10, 3, 9, 0xFFFFFFFFFFFFFFFF, (9, 0, 1)),
        (5, 200, 2, 0x2A, (3, 1, 2, 4, 0)),
    ],
)
def test_vectors(count: int, stripe: int, base: int, seed: int, expected: tuple[int, ...]) -> None:
    assert pick_chains(chains(count), stripe=stripe, base=base, seed=seed) == expected


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 1000), st.integers(0, 2**64 - 1))
def test_different_chains_from_the_window(count: int, stripe: int, base: int, seed: int) -> None:
    picked = pick_chains(chains(count), stripe=stripe, base=base, seed=seed)
    window = {ChainId((base + i) % count) for i in range(min(stripe, count))}
    assert len(picked) == len(set(picked)) == min(stripe, count)
    assert set(picked) == window


def _picker(versions: dict[int, int]) -> LayoutPicker:
    tables = {(TABLE, v): ChainTable(TABLE, v, chains(n)) for v, n in versions.items()}
    return LayoutPicker(RealRuntime(Random(1)), lambda: Routing(RoutingVersion(1), tables=tables))


def test_files_use_all_chains_evenly() -> None:
    picker = _picker({1: 12})
    default = Layout(TABLE, 0, 1 << 20, 4)
    every, first = Counter[int](), Counter[int]()
    for seed in range(1200):
        layout = picker.file_layout(default, seed)
        every.update(layout.chains)
        first[layout.chains[0]] += 1
    assert set(every.values()) == {400}
    assert max(first.values()) < 1.5 * min(first.values())


def test_the_newest_table_unless_one_is_named() -> None:
    picker = _picker({1: 3, 2: 5})
    assert picker.file_layout(Layout(TABLE, 0, 1 << 20, 200), 1).table_version == 2
    named = picker.file_layout(Layout(TABLE, 1, 1 << 20, 200), 1)
    assert (named.table_version, named.stripe, len(named.chains)) == (1, 3, 3)
    with pytest.raises(NotServing, match="chain table 1 version 7"):
        picker.file_layout(Layout(TABLE, 7, 1 << 20, 1), 1)


def test_merging() -> None:
    inherited = Layout(TABLE, 3, 1 << 20, 4)
    assert merge_layout(None, inherited) == inherited
    assert merge_layout(Layout(ChainTableId(0), 0, 0, 8), inherited) == Layout(TABLE, 3, 1 << 20, 8)
    assert merge_layout(Layout(ChainTableId(2), 0, 0, 0), inherited) == Layout(ChainTableId(2), 0, 1 << 20, 4)
    with pytest.raises(BadRequest, match="power of two"):
        merge_layout(Layout(ChainTableId(0), 0, 3 << 20, 0), inherited)


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=6, unique=True), st.integers(0, 2**64 - 1))
def test_an_owner_stays_when_another_leaves(nodes: list[int], key: int) -> None:
    chosen = nodes[owner(key, nodes)]
    for gone in nodes:
        if gone != chosen:
            left = [node for node in nodes if node != gone]
            assert left[owner(key, left)] == chosen
