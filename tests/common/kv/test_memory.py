"""The memory store: injected faults, replay from a seed, several processes, old versions."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from threefs.common.errors import Throttled
from threefs.common.kv.errors import KvConflict, KvMaybeCommitted, KvTooOld, KvUnavailable
from threefs.common.kv.interface import Transaction
from threefs.common.kv.memory import MemoryEngine, MemoryFaults, MemoryStore
from threefs.common.runtime.simulated import Simulation

pytestmark = pytest.mark.unit


async def bump(txn: Transaction) -> int:
    count = int(await txn.get(b"n") or b"0") + 1
    txn.set(b"n", b"%d" % count)
    return count


def storm(seed: int) -> tuple[int, list[str]]:
    """Five processes count under every fault: how far the count got, and what happened when."""
    simulation = Simulation(seed)
    store, events = MemoryStore(), list[str]()

    async def work(name: str) -> None:
        runtime = simulation.runtime(name)
        engine = MemoryEngine(runtime, store, MemoryFaults(0.1, 0.1, 0.1, 0.1, latency_s=0.01))
        for _ in range(20):
            count = await engine.transact(bump, timeout_s=600)
            events.append(f"{runtime.now():.6f} {name} {count}")

    async def main() -> int:
        await asyncio.gather(*(work(f"p{number}") for number in range(5)))
        return int(await MemoryEngine(simulation.runtime("reader"), store).read(lambda txn: txn.get(b"n")) or b"0")

    return simulation.run(main()), events


def test_no_increment_is_lost_and_the_seed_replays() -> None:
    count, events = storm(1)
    assert count > 100  # some of an unknown outcome took effect and ran again
    assert (count, events) == storm(1)
    assert events != storm(2)[1]


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (MemoryFaults(conflict=1.0), KvConflict),
        (MemoryFaults(too_old=1.0), KvTooOld),
        (MemoryFaults(maybe_committed=1.0), KvMaybeCommitted),
        (MemoryFaults(throttled=1.0), Throttled),
    ],
)
def test_each_fault_is_its_error(faults: MemoryFaults, error: type[Exception]) -> None:
    simulation = Simulation(1)

    async def main() -> int:
        engine = MemoryEngine(simulation.runtime("p"), faults=faults)
        for number in range(100):
            txn = engine.begin()
            txn.set(b"%d" % number, b"")
            with pytest.raises(error):
                await txn.commit()
        engine.faults = MemoryFaults()
        return len(await engine.read(lambda txn: txn.get_range(b"\x00", b"\xff")))

    took_effect = simulation.run(main())
    if error is KvMaybeCommitted:
        assert 25 < took_effect < 75  # about half
    else:
        assert took_effect == 0


def test_old_versions_go_and_old_transactions_fail() -> None:
    simulation = Simulation(1)

    async def main() -> None:
        runtime = simulation.runtime("p")
        engine = MemoryEngine(runtime)
        old = engine.begin()
        await old.get(b"n")
        for _ in range(100):
            await engine.transact(bump)
            await runtime.sleep(0.1)
        with pytest.raises(KvTooOld, match=r"10\.\d+ s old"):
            await old.get(b"n")
        assert len(engine.store.window) <= 51

    simulation.run(main())


def test_back_off_is_bounded_by_the_timeout() -> None:
    simulation = Simulation(1)

    async def main() -> None:
        runtime = simulation.runtime("p")
        engine = MemoryEngine(runtime, faults=MemoryFaults(conflict=1.0))
        attempts = 0

        async def body(txn: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await bump(txn)

        with pytest.raises(KvConflict):
            await engine.transact(body, timeout_s=5.0)
        assert 3.0 < runtime.now() <= 5.0
        assert 20 < attempts < 60

    simulation.run(main())


def test_a_disconnected_process_reaches_nothing() -> None:
    simulation = Simulation(1)

    async def main() -> None:
        store = MemoryStore()
        engine = MemoryEngine(simulation.runtime("p"), store)
        await engine.transact(bump)
        engine.disconnect()
        with pytest.raises(KvUnavailable):
            await engine.transact(bump, timeout_s=0.01)
        other = MemoryEngine(simulation.runtime("q"), store)
        assert await other.read(lambda txn: txn.get(b"n")) == b"1"

    simulation.run(main())


def test_attempts_are_counted_by_their_end() -> None:
    simulation = Simulation(1)

    def count(outcome: str) -> float:
        return REGISTRY.get_sample_value("threefs_kv_attempts_total", {"engine": "memory", "outcome": outcome}) or 0.0

    async def main() -> None:
        engine = MemoryEngine(simulation.runtime("p"), faults=MemoryFaults(conflict=0.5))
        before = count("committed"), count("KvConflict")
        for _ in range(20):
            await engine.transact(bump)
        assert count("committed") - before[0] == 20
        assert 5 < count("KvConflict") - before[1] < 60

    simulation.run(main())
