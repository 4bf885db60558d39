"""The lease: never two primaries that believe, whatever the store does; soon a new one when the old is gone."""

from __future__ import annotations

import asyncio

import pytest

from threefs.common.errors import NotPrimary
from threefs.common.ids import NodeId
from threefs.common.kv.interface import Transaction
from threefs.common.kv.memory import MemoryEngine, MemoryFaults, MemoryStore
from threefs.common.runtime.simulated import SimulatedRuntime, Simulation
from threefs.mgmtd.config import LeaseConfig
from threefs.mgmtd.lease import Lease
from threefs.mgmtd.store import Store, read_lease

pytestmark = pytest.mark.unit

CONFIG = LeaseConfig()


class Contender:
    def __init__(self, simulation: Simulation, store: MemoryStore, node: int, life: int = 1) -> None:
        self.runtime: SimulatedRuntime = simulation.runtime(f"mgmtd{node}#{life}")
        self.engine = MemoryEngine(self.runtime, store, MemoryFaults())
        self.lease = Lease(self.runtime, self.engine, CONFIG, node=NodeId(node))
        self.lease.set_address(f"mgmtd{node}:1")

    async def keep(self) -> None:
        while True:
            await self.lease.tick()
            await self.runtime.sleep(self.runtime.jitter(CONFIG.extend_s))

    def start(self) -> Contender:
        self.runtime.spawn(self.keep(), name="lease")
        return self


def test_one_takes_it_and_the_other_watches() -> None:
    simulation, store = Simulation(1), MemoryStore()

    async def main() -> None:
        first, second = Contender(simulation, store, 1), Contender(simulation, store, 2)
        assert await first.lease.tick()
        assert not await second.lease.tick()
        assert second.lease.primary.address == "mgmtd1:1"

    simulation.run(main())


def test_a_dead_holder_is_replaced_after_the_lease_and_not_before() -> None:
    simulation, store = Simulation(1), MemoryStore()

    async def main() -> None:
        first, second = Contender(simulation, store, 1).start(), Contender(simulation, store, 2).start()
        await asyncio.sleep(30)
        assert first.lease.is_valid()
        first.runtime.crash()
        killed_at = simulation.loop.time()
        while not second.lease.is_valid():  # noqa: ASYNC110 (the lease has no event)
            await asyncio.sleep(0.01)
        assert CONFIG.lease_s - 1.3 < simulation.loop.time() - killed_at < CONFIG.lease_s + 1.3

    simulation.run(main())


def test_a_restarted_holder_takes_its_own_lease_at_once() -> None:
    simulation, store = Simulation(1), MemoryStore()

    async def main() -> None:
        first = Contender(simulation, store, 1)
        assert await first.lease.tick()
        first.runtime.crash()
        await asyncio.sleep(0.1)
        assert await Contender(simulation, store, 1, life=2).lease.tick()

    simulation.run(main())


def test_a_released_lease_is_free() -> None:
    simulation, store = Simulation(1), MemoryStore()

    async def main() -> None:
        first, second = Contender(simulation, store, 1), Contender(simulation, store, 2)
        assert await first.lease.tick()
        await first.lease.release()
        assert not first.lease.is_valid()
        assert await second.lease.tick()

    simulation.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_never_two_believe_at_once_under_faults_of_the_store(seed: int) -> None:
    simulation, store = Simulation(seed), MemoryStore()
    taken: list[int] = []

    async def main() -> None:
        contenders = [Contender(simulation, store, node).start() for node in (1, 2, 3)]
        for contender in contenders:
            contender.engine.faults = MemoryFaults(0.1, 0.1, 0.2, 0.1, latency_s=0.3)
        for _ in range(6000):
            await asyncio.sleep(0.02)
            for contender in contenders:
                if simulation.random.random() < 0.0005:
                    contender.engine.closed = not contender.engine.closed
            believers = [n for n, contender in enumerate(contenders) if contender.lease.is_valid()]
            assert len(believers) <= 1, f"at {simulation.loop.time()}"
            taken.extend(n for n in believers if taken[-1:] != [n])

    simulation.run(main())
    assert taken


def test_who_lost_the_lease_cannot_write() -> None:
    simulation, store = Simulation(1), MemoryStore()

    async def main() -> None:
        first, second = Contender(simulation, store, 1), Contender(simulation, store, 2)
        assert await first.lease.tick()
        mine = Store(first.engine, first.lease.holder)

        async def body(transaction: Transaction) -> None:
            if second.lease.primary.node:
                await first.lease.release()
                assert await second.lease.tick()  # between this transaction's read of the lease and its commit
            transaction.set(b"CONFx", b"1")

        await mine.write(body)
        await second.lease.tick()
        with pytest.raises(NotPrimary, match="held by mgmtd 2"):
            await mine.write(body)
        transaction = first.engine.begin()
        assert (await read_lease(transaction)).node == 2

    simulation.run(main())
