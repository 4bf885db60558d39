"""The checkers themselves: against brute force, and on histories whose fault is known."""

from __future__ import annotations

import math
from itertools import permutations
from random import Random

import pytest
from tests.simulation import acknowledged, linearisable
from tests.simulation.history import History, Operation

pytestmark = pytest.mark.unit

PLACE = (1, 0, 0)


def op(kind: str, value: int, start: float, end: float = math.inf) -> Operation:
    return Operation("c", kind, PLACE, value, start, end)


def brute_force(operations: list[Operation]) -> bool:
    """Tries every order, with and without the writes whose outcome is unknown."""
    known = [o for o in operations if o.done]
    open_writes = [o for o in operations if not o.done and o.kind == "write"]
    for mask in range(2 ** len(open_writes)):
        chosen = known + [o for bit, o in enumerate(open_writes) if mask >> bit & 1]
        if any(_legal(order) for order in permutations(chosen)):
            return True
    return False


def _legal(order: tuple[Operation, ...]) -> bool:
    value, latest_start = 0, -math.inf
    for o in order:
        if o.end < latest_start:
            return False  # it ended before one that is placed earlier began
        latest_start = max(latest_start, o.start)
        if o.kind == "write":
            value = o.value
        elif o.value != value:
            return False
    return True


def test_the_theorem_agrees_with_brute_force() -> None:
    verdicts = {True: 0, False: 0}
    for seed in range(1500):
        random = Random(seed)
        times = [float(t) for t in random.sample(range(40), 12)]
        operations = []
        for n in range(random.randint(2, 6)):
            start, end = sorted((times[2 * n], times[2 * n + 1]))
            if random.random() < 0.5:
                operations.append(op("write", n + 1, start, math.inf if random.random() < 0.2 else end))
            else:
                operations.append(op("read", random.randint(0, n), start, end))
        written = {o.value for o in operations if o.kind == "write"} | {0}
        for o in operations:
            o.value = o.value if o.value in written else 0
        verdict = not linearisable.explain(operations)
        assert verdict == brute_force(operations), f"seed {seed}: {[str(o) for o in operations]}"
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 200, "both verdicts have to occur often"


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        ([op("write", 1, 0, 1), op("write", 2, 2, 3), op("read", 1, 4, 5)], "before each other"),
        ([op("write", 1, 0, 1), op("write", 2, 2), op("read", 2, 3, 4), op("read", 1, 5, 6)], "before each other"),
        ([op("write", 1, 0, 1), op("read", 0, 2, 3)], "before each other"),
        ([op("read", 7, 0, 1)], "nobody wrote"),
        ([op("read", 1, 0, 1), op("write", 1, 2, 3)], "read before it was written"),
    ],
)
def test_stale_lost_and_invented_values_are_found(operations: list[Operation], words: str) -> None:
    assert words in linearisable.explain(operations)


def test_an_open_write_may_take_effect_late_or_never() -> None:
    assert not linearisable.explain([op("write", 1, 0), op("read", 0, 5, 6), op("read", 1, 7, 8)])
    assert not linearisable.explain([op("write", 1, 0), op("read", 0, 5, 6)])


def test_a_lost_acknowledged_write_is_found() -> None:
    history = History([op("write", 1, 0, 1), op("write", 2, 2, 3)])
    assert "write 2" in acknowledged.violations(history, {PLACE: 1})[0]
    assert "write 1" in acknowledged.violations(history, {PLACE: 0})[0]
    assert acknowledged.violations(history, {PLACE: 2}) == []


def test_concurrent_and_open_writes_may_win() -> None:
    assert acknowledged.violations(History([op("write", 1, 0, 5), op("write", 2, 2, 3)]), {PLACE: 1}) == []
    assert acknowledged.violations(History([op("write", 1, 0), op("write", 2, 2, 3)]), {PLACE: 1}) == []
