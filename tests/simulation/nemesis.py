"""What goes wrong, drawn from the seed. Every kind comes round; faults overlap; `counts` says how often each struck."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import combinations

from tests.simulation.world import Process, World


class Nemesis:
    def __init__(self, world: World, *, kinds: Sequence[str] = (), gap_s: tuple[float, float] = (2.0, 8.0)) -> None:
        """`kinds`: only these; none named: all."""
        self.counts: Counter[str] = Counter()
        self._world = world
        self._random = world.simulation.random
        self._gap_s = gap_s
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "crash storage": lambda: self._crash("storage"),
            "crash mgmtd": lambda: self._crash("mgmtd"),
            "crash meta": lambda: self._crash("meta"),
            "crash client": lambda: self._crash("client"),
            "crash everything": self._crash_everything,
            "stop storage": self._stop_storage,
            "partition": self._partition,
            "one-way partition": self._one_way,
            "isolation": self._isolate,
            "old map": self._old_map,
            "slow links": self._slow_links,
            "loss": self._lose,
            "delay and reordering": self._delay,
            "store faults": self._store_faults,
        }

        self._chosen = list(kinds) or list(self._kinds)
        unknown = [kind for kind in self._chosen if kind not in self._kinds]
        assert not unknown, f"no such faults: {unknown}; there are {list(self._kinds)}"

    @property
    def kinds(self) -> list[str]:
        return list(self._chosen)

    async def rage(self, seconds: float) -> None:
        """Strikes again and again; every kind once before any comes twice."""
        runtime = self._world.runtime
        end = runtime.now() + seconds
        bag: list[str] = []
        while runtime.now() < end:
            if not bag:
                bag = self.kinds
                self._random.shuffle(bag)
            kind = bag.pop()
            self.counts[kind] += 1
            self._world.record(f"fault: {kind}")
            runtime.spawn(self._strike(kind), name=f"fault {kind}")
            await asyncio.sleep(self._random.uniform(*self._gap_s))

    async def _strike(self, kind: str) -> None:
        await self._kinds[kind]()

    async def _last(self, low: float = 0.5, high: float = 12.0) -> None:
        await asyncio.sleep(self._random.uniform(low, high))

    async def _crash(self, kind: str) -> None:
        victim = self._random.choice(self._world.of_kind(kind))
        victim.crash()
        await self._last(0.05, 10.0)
        victim.start()

    async def _crash_everything(self) -> None:
        """The power goes; machines come back one after the other, in any order."""
        victims = list(self._world.processes.values())
        for process in victims:
            process.crash()
        self._random.shuffle(victims)
        await self._last(0.5, 5.0)
        for process in victims:
            await asyncio.sleep(self._random.uniform(0.0, 1.0))
            process.start()

    async def _stop_storage(self) -> None:
        victim: Process = self._random.choice(self._world.of_kind("storage"))
        await victim.stop()
        await self._last(0.05, 5.0)
        victim.start()

    async def _partition(self) -> None:
        """Two sides that do not hear each other."""
        hosts = list(self._world.processes)
        self._random.shuffle(hosts)
        side = hosts[: self._random.randint(1, len(hosts) // 2)]
        await self._cut([(a, b) for a in side for b in hosts if b not in side], both=True)

    async def _one_way(self) -> None:
        hosts = list(self._world.processes)
        pairs = list(combinations(hosts, 2))
        chosen = self._random.sample(pairs, self._random.randint(1, 4))
        await self._cut([pair if self._random.random() < 0.5 else pair[::-1] for pair in chosen], both=False)

    async def _isolate(self) -> None:
        """A storage daemon and a client that reach each other, but not mgmtd: the daemon has to fence itself. Each
        hears of the others again at its own time, so that a client may hold a map that the daemon has left behind."""
        storages = self._world.of_kind("storage")
        victim, client = self._random.choice(storages), self._random.choice(self._world.of_kind("client"))
        unheard = self._world.of_kind("mgmtd")
        daemon = [(victim.name, other.name) for other in [*unheard, *storages] if other is not victim]
        await asyncio.gather(
            self._cut(daemon, both=True), self._cut([(client.name, mgmtd.name) for mgmtd in unheard], both=True)
        )

    async def _cut(self, pairs: list[tuple[str, str]], *, both: bool) -> None:
        for source, target in pairs:
            self._world.network.cut(source, target, both=both)
        await self._last(1.0, 10.0)
        for source, target in pairs:
            self._world.network.mend(source, target, both=both)

    async def _old_map(self) -> None:
        """A client that keeps the map which it has."""
        client = self._random.choice(self._world.of_kind("client"))
        await self._cut([(client.name, mgmtd.name) for mgmtd in self._world.of_kind("mgmtd")], both=True)

    async def _slow_links(self) -> None:
        """All that one daemon sends to the others arrives late: updates of a former head, answers, heartbeats."""
        sender = self._random.choice(self._world.of_kind("storage")).name
        others = [name for name in self._world.processes if name != sender and not name.startswith("client")]
        for other in others:
            self._world.network.slow_down(sender, other, self._random.uniform(0.2, 4.0))
        await self._last()
        for other in others:
            self._world.network.slow_down(sender, other, 0)

    async def _lose(self) -> None:
        faults = self._world.network.faults
        faults.loss = self._random.uniform(0.01, 0.2)
        await self._last()
        faults.loss = 0.0

    async def _delay(self) -> None:
        faults = self._world.network.faults
        faults.slow, faults.slow_s_max = self._random.uniform(0.02, 0.3), self._random.uniform(0.1, 3.0)
        await self._last()
        faults.slow = 0.0

    async def _store_faults(self) -> None:
        faults = self._world.store_faults
        faults.conflict = faults.maybe_committed = faults.throttled = self._random.uniform(0.02, 0.2)
        await self._last()
        faults.conflict = faults.maybe_committed = faults.throttled = 0.0
