"""Random interleaved transactions on every engine against a serial model.

A transaction keeps the log of what it read. When it commits, the same operations are run again on the model's present
state: equal answers mean that it might as well have run there alone, which is serialisability. While it runs, each
answer must be that of the model at the transaction's snapshot under its own writes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from threefs.common.kv.conflicts import ConflictWindow
from threefs.common.kv.errors import KvConflict
from threefs.common.kv.interface import KvEngine, Transaction
from threefs.common.kv.memory import MemoryEngine
from threefs.common.runtime.real import RealRuntime

pytestmark = pytest.mark.unit

KEYS = [b"%c" % letter for letter in b"abcdefgh"]
key = st.sampled_from(KEYS)
span = st.tuples(key, key).map(lambda ends: (min(ends), max(ends) + b"\x00"))
OPERATIONS = st.one_of(
    st.tuples(st.just("get"), key, st.booleans()),
    st.tuples(st.just("range"), span, st.integers(0, 3), st.booleans(), st.booleans()),
    st.tuples(st.just("set"), key, st.binary(max_size=2)),
    st.tuples(st.just("clear"), key),
    st.tuples(st.just("clear_range"), span),
    st.tuples(st.just("commit")),
)
STEPS = st.lists(st.tuples(st.integers(0, 2), OPERATIONS), min_size=5, max_size=40)


def apply(state: dict[bytes, bytes], operation: tuple[Any, ...]) -> Any:
    """The answer and effect of one operation on a plain dict."""
    match operation:
        case ("get", key, _):
            return state.get(key)
        case ("range", (begin, end), limit, reverse, _):
            pairs = sorted(((k, v) for k, v in state.items() if begin <= k < end), reverse=reverse)
            return pairs[:limit] if limit else pairs
        case ("set", key, value):
            state[key] = value
        case ("clear", key):
            state.pop(key, None)
        case ("clear_range", (begin, end)):
            for key in [k for k in state if begin <= k < end]:
                del state[key]
    return None


@dataclass
class Attempt:
    """One running transaction and what it has done so far."""

    transaction: Transaction
    state: dict[bytes, bytes]  # the model at its snapshot, under its own writes
    snapshot: int  # commits before its snapshot
    log: list[tuple[tuple[Any, ...], Any]] = field(default_factory=list)

    async def step(self, operation: tuple[Any, ...]) -> None:
        txn = self.transaction
        match operation:
            case ("get", key, snapshot):
                answer: Any = await txn.get(key, snapshot=snapshot)
            case ("range", (begin, end), limit, reverse, snapshot):
                answer = await txn.get_range(begin, end, limit=limit, reverse=reverse, snapshot=snapshot)
            case (name, *arguments):
                flat = arguments[0] if name == "clear_range" else arguments
                answer = getattr(txn, name)(*flat)
        assert answer == apply(self.state, operation), operation
        self.log.append((operation, answer))

    def replay(self, committed: dict[bytes, bytes]) -> bool:
        """Runs the log on `committed`; whether every read that counts gives the same answer."""
        same = True
        for operation, answer in self.log:
            again = apply(committed, operation)
            counts = operation[0] in ("get", "range") and not operation[-1]
            same = same and (again == answer or not counts)
        return same

    def writes(self) -> bool:
        return any(operation[0] in ("set", "clear", "clear_range") for operation, _ in self.log)


async def run_steps(engine: KvEngine, steps: list[tuple[int, tuple[Any, ...]]]) -> None:
    async def empty(txn: Transaction) -> None:
        txn.clear_range(b"a", b"z")

    await engine.transact(empty)
    committed: dict[bytes, bytes] = {}
    commits = 0
    running: dict[int, Attempt] = {}
    for who, operation in [*steps, (0, ("commit",)), (1, ("commit",)), (2, ("commit",))]:
        if who not in running:
            running[who] = Attempt(engine.begin(), dict(committed), commits)
            await running[who].transaction.get(b"zz", snapshot=True)  # takes the snapshot
        attempt = running[who]
        if operation[0] != "commit":
            await attempt.step(operation)
            continue
        del running[who]
        after = dict(committed)
        serial = attempt.replay(after)
        try:
            await attempt.transaction.commit()
        except KvConflict:
            assert commits > attempt.snapshot, "a conflict although nothing was committed since the snapshot"
            continue
        if attempt.writes():
            assert serial, f"committed although a read changed: {attempt.log}"
            committed = after
            commits += 1
    final = engine.begin()
    assert dict(await final.get_range(b"a", b"z")) == committed
    final.cancel()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_interleaved_transactions_are_serialisable(store, steps: list[tuple[int, tuple[Any, ...]]]) -> None:
    store.run(run_steps(store.engine, steps))


def test_without_the_conflict_check_the_model_finds_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: the window that decides conflicts finds none."""
    monkeypatch.setattr(ConflictWindow, "conflict", lambda *_: None)

    def is_found(steps: list[tuple[int, tuple[Any, ...]]]) -> bool:
        try:
            asyncio.run(run_steps(MemoryEngine(RealRuntime()), steps))
        except AssertionError as exc:
            return "although a read changed" in str(exc)
        return False

    assert find(STEPS, is_found, settings=settings(max_examples=2000, database=None, phases=[Phase.generate]))
