"""Range sets and the conflict window against plain sets of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefs.common.kv.conflicts import Commit, ConflictWindow
from threefs.common.kv.ranges import RangeSet

pytestmark = pytest.mark.unit

KEYS = [bytes([letter]) for letter in range(12)]
key = st.sampled_from(KEYS)
SPANS = st.lists(st.tuples(key, key), max_size=8)


def members(begin: bytes, end: bytes) -> set[bytes]:
    return {each for each in KEYS if begin <= each < end}


@given(SPANS, key, key)
def test_a_range_set_is_a_set_of_keys(added: list[tuple[bytes, bytes]], begin: bytes, end: bytes) -> None:
    ranges, model = RangeSet(), set[bytes]()
    for low, high in added:
        ranges.add(low, high)
        model |= members(low, high)
        flat = [edge for span in ranges for edge in span]
        assert flat == sorted(set(flat))  # disjoint, not adjacent, sorted
    assert {each for each in KEYS if each in ranges} == model
    assert ranges.overlaps(begin, end) == bool(model & members(begin, end))
    gaps = [member for low, high in ranges.gaps(begin, end) for member in sorted(members(low, high))]
    assert gaps == sorted(members(begin, end) - model)


commits = st.lists(st.tuples(st.lists(key, max_size=3), st.lists(st.tuples(key, key), max_size=2)), max_size=8)


@given(commits, st.integers(0, 8), st.integers(0, 8), st.lists(key, max_size=3), SPANS)
def test_the_window_finds_every_conflict_and_no_other(
    made: list[tuple[list[bytes], list[tuple[bytes, bytes]]]],
    forgotten: int,
    snapshot: int,
    keys: list[bytes],
    ranges: list[tuple[bytes, bytes]],
) -> None:
    window, changed = ConflictWindow(0), dict[bytes, int]()
    for version, (written, cleared) in enumerate(made, start=1):
        window.add(
            Commit(version, float(version), tuple(written), tuple(span for span in cleared if span[0] < span[1]))
        )
        for each in {*written, *(member for span in cleared for member in members(*span))}:
            changed[each] = version
    dropped = window.forget_before(forgotten + 0.5)
    assert [commit.version for commit in dropped] == list(range(1, min(forgotten, len(made)) + 1))
    if snapshot < window.floor:
        with pytest.raises(AssertionError):
            window.conflict(snapshot, keys, ranges)
        return
    read = {*keys, *(member for span in ranges for member in members(*span))}
    conflicting = {each for each in read if changed.get(each, 0) > snapshot}
    found = window.conflict(snapshot, keys, [span for span in ranges if span[0] < span[1]])
    assert (found in conflicting) if conflicting else found is None
