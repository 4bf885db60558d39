"""A whole cluster in one process on virtual time: the real daemons and clients on simulated machines.

Each process runs under a supervisor that starts it again when it could not start, until it is crashed or stopped.
What survives a crash is here: the disks, the two stores, and the network's faults.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from threefs.client.filesystem import FileSystem
from threefs.client.meta.client import MetaClient
from threefs.client.meta.transport import routed_nodes
from threefs.client.routing import ClientSessionAgent, MgmtdClient, RoutingClient
from threefs.client.storage.client import ChainStorageClient
from threefs.common.errors import ThreefsError
from threefs.common.ids import ChainId, ChainTableId, ClientId, NodeId, TargetId
from threefs.common.kv.memory import MemoryEngine, MemoryFaults, MemoryStore
from threefs.common.net.simulated import NetworkFaults, SimulatedNetwork
from threefs.common.routing import NodeType, PublicState, Routing
from threefs.common.runtime.simulated import SimulatedRuntime, Simulation
from threefs.meta.config import MetaConfig, RootConfig
from threefs.meta.server import MetaServer
from threefs.mgmtd import placement
from threefs.mgmtd.config import MgmtdConfig
from threefs.mgmtd.server import MgmtdServer
from threefs.proto import mgmtd_pb2 as pb
from threefs.storage.config import DiskConfig, StorageConfig
from threefs.storage.server import StorageServer
from threefs.storage.simulated_engine import SimulatedDisk, SimulatedEngine

CHUNK_BYTES = 64 << 10
TABLE = ChainTableId(1)


@dataclass(frozen=True)
class Shape:
    """What a cluster consists of."""

    mgmtds: int = 2
    metas: int = 1
    storages: int = 3
    clients: int = 3
    chains: int = 3
    replicas: int = 3
    attempt_timeout_s: float = 5.0  # of one call between storage daemons


async def _outcome(work: Coroutine[Any, Any, None]) -> ThreefsError | None:
    """Runs `work`; an operating error is its result."""
    try:
        await work
    except ThreefsError as exc:
        return exc
    return None


class Process:
    """One simulated machine with one process, which may have several lives."""

    kind = ""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.lives = 0
        self.runtime: SimulatedRuntime | None = None
        self.ready = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._supervisor is not None

    def start(self) -> None:
        """Starts the process, and again until it has started; returns at once."""
        if self._supervisor is None:
            self.ready.clear()
            self._supervisor = self.world.runtime.spawn(self._supervise(), name=f"supervise {self.name}")

    async def _supervise(self) -> None:
        while True:
            self.lives += 1
            self.runtime = self.world.simulation.runtime(f"{self.name}#{self.lives}")
            error = await self.runtime.spawn(_outcome(self.boot(self.runtime)), name="boot")
            if error is None:
                self.world.record(f"{self.name} started")
                self.ready.set()
                return
            self.world.record(f"{self.name} could not start: {type(error).__name__}")
            self._die(self.runtime)
            await asyncio.sleep(1.0)

    def crash(self) -> None:
        """Power off: memory and what was not synced is gone."""
        if self._supervisor is None or self.runtime is None:
            return
        self._supervisor.cancel()
        self._supervisor = None
        self.world.record(f"{self.name} crashed")
        self._die(self.runtime)

    async def stop(self) -> None:
        """SIGTERM: a clean end, if it has begun to serve; else as a crash."""
        if self.ready.is_set() and self.runtime is not None:
            stopping = self.runtime.spawn(_outcome(self.shut()), name="stop")
            try:
                async with asyncio.timeout(10):
                    await asyncio.gather(stopping, return_exceptions=True)
            except TimeoutError:
                self.world.record(f"{self.name} did not stop in time")
        self.crash()

    def _die(self, runtime: SimulatedRuntime) -> None:
        self.ready.clear()
        runtime.crash()
        self.power_off()

    # What each kind of process fills in

    async def boot(self, runtime: SimulatedRuntime) -> None:
        raise NotImplementedError

    async def shut(self) -> None:
        raise NotImplementedError

    def power_off(self) -> None:
        """What a crash does beyond ending all tasks."""


class MgmtdProcess(Process):
    kind = "mgmtd"

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"mgmtd{number}")
        self.number = number
        self.engine: MemoryEngine | None = None
        self.server: MgmtdServer | None = None

    async def boot(self, runtime: SimulatedRuntime) -> None:
        self.engine = MemoryEngine(runtime, self.world.mgmtd_store, self.world.store_faults)
        self.server = MgmtdServer(
            MgmtdConfig(node_id=self.number, listen=f"{self.name}:1"),
            runtime=runtime,
            carrier=self.world.network.carrier(runtime, self.name),
            engine=self.engine,
        )
        await self.server.start()

    async def shut(self) -> None:
        assert self.server is not None
        await self.server.stop()

    def power_off(self) -> None:
        if self.engine is not None:
            self.engine.disconnect()


class MetaProcess(Process):
    kind = "meta"

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"meta{number}")
        self.number = number
        self.engine: MemoryEngine | None = None
        self.server: MetaServer | None = None

    async def boot(self, runtime: SimulatedRuntime) -> None:
        self.engine = MemoryEngine(runtime, self.world.meta_store, self.world.store_faults)
        config = MetaConfig(
            node_id=50 + self.number,
            listen=f"{self.name}:1",
            mgmtd=self.world.mgmtd_addresses,
            root=RootConfig(chain_table=TABLE, chunk_bytes=CHUNK_BYTES, stripe=self.world.shape.chains),
        )
        client_id = ClientId(runtime.uuid())
        self.server = MetaServer(
            config,
            runtime=runtime,
            carrier=self.world.network.carrier(runtime, self.name),
            engine=self.engine,
            make_storage=lambda routing, transport: ChainStorageClient(runtime, transport, routing, client=client_id),
        )
        await self.server.start()

    async def shut(self) -> None:
        assert self.server is not None
        await self.server.stop()

    def power_off(self) -> None:
        if self.engine is not None:
            self.engine.disconnect()


class StorageProcess(Process):
    kind = "storage"

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"storage{number}")
        self.node = NodeId(100 + number)
        self.disk = SimulatedDisk(latency_s=(0.0001, 0.003))
        self.server: StorageServer | None = None

    async def boot(self, runtime: SimulatedRuntime) -> None:
        async def open_engine(index: int, disk: DiskConfig) -> SimulatedEngine:
            engine = SimulatedEngine(runtime, self.disk)
            for target in self.world.targets_of(self.node):
                await engine.create_target(target)
            return engine

        self.server = StorageServer(
            StorageConfig(
                node_id=self.node,
                listen=f"{self.name}:1",
                mgmtd=self.world.mgmtd_addresses,
                disks=[DiskConfig(path="simulated")],
                attempt_timeout_s=self.world.shape.attempt_timeout_s,
            ),
            runtime=runtime,
            carrier=self.world.network.carrier(runtime, self.name),
            open_engine=open_engine,
        )
        await self.server.start()

    async def shut(self) -> None:
        assert self.server is not None
        await self.server.stop()

    def power_off(self) -> None:
        self.disk.crash(self.world.simulation.random)


class ClientProcess(Process):
    """A program on the library; `workload` gives it work for each of its lives."""

    kind = "client"

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, f"client{number}")
        self.number = number
        self.storage: ChainStorageClient | None = None
        self.files: FileSystem | None = None
        self.session: ClientSessionAgent | None = None

    async def boot(self, runtime: SimulatedRuntime) -> None:
        transport = self.world.network.carrier(runtime, self.name).transport()
        routing = RoutingClient(runtime, transport, self.world.mgmtd_addresses)
        await routing.start()
        client_id = ClientId(runtime.uuid())
        self.session = ClientSessionAgent(runtime, routing.mgmtd, client_id, hostname=self.name)
        await self.session.start()
        self.storage = ChainStorageClient(runtime, transport, routing, client=client_id)
        nodes = routed_nodes(lambda: routing.routing)
        self.files = FileSystem(runtime, MetaClient(runtime, transport, nodes, client_id), self.storage)
        if self.world.workload is not None:
            self.world.workload.attach(self)

    async def shut(self) -> None:
        assert self.session is not None
        await self.session.stop()


class World:
    """The cluster; `workload` is set by the run before the clients start."""

    def __init__(self, seed: int | str, shape: Shape) -> None:
        self.simulation = Simulation(seed)
        self.shape = shape
        self.runtime = self.simulation.runtime("world")
        self.network = SimulatedNetwork(self.simulation, NetworkFaults())
        self.mgmtd_store, self.meta_store = MemoryStore(), MemoryStore()
        self.store_faults = MemoryFaults(latency_s=0.002)
        self.workload: Workload | None = None
        self.counts: Counter[str] = Counter()
        self.plan = placement.plan(
            [NodeId(100 + n) for n in range(1, shape.storages + 1)],
            targets_per_disk=shape.chains * shape.replicas // shape.storages,
            replicas=shape.replicas,
        )
        self.processes: dict[str, Process] = {}
        for kind, count in [
            (MgmtdProcess, shape.mgmtds),
            (StorageProcess, shape.storages),
            (MetaProcess, shape.metas),
            (ClientProcess, shape.clients),
        ]:
            for number in range(1, count + 1):
                process = kind(self, number)
                self.processes[process.name] = process
        self.watcher: RoutingClient | None = None

    @property
    def mgmtd_addresses(self) -> list[str]:
        return [f"mgmtd{n}:1" for n in range(1, self.shape.mgmtds + 1)]

    @property
    def chains(self) -> list[ChainId]:
        return [chain.chain for chain in self.plan]

    def targets_of(self, node: NodeId) -> list[TargetId]:
        return [place.target for chain in self.plan for place in chain.places if place.node == node]

    def of_kind(self, kind: str) -> list[Process]:
        return [process for process in self.processes.values() if process.kind == kind]

    def record(self, event: str) -> None:
        self.simulation.record(event)

    async def bring_up(self) -> None:
        """Starts everything on a perfect network and makes the chains."""
        for process in [*self.of_kind("mgmtd"), *self.of_kind("storage")]:
            process.start()
        transport = self.network.carrier(self.runtime, "watcher").transport()
        self.watcher = RoutingClient(self.runtime, transport, self.mgmtd_addresses)
        await self.watcher.start()
        wanted = {place.node for chain in self.plan for place in chain.places}
        await self.watcher.wait_for(lambda routing: wanted <= routing.nodes.keys(), 30)
        admin = MgmtdClient(self.runtime, transport, self.mgmtd_addresses)
        await admin.set_chains(
            [
                pb.ChainSetting(
                    chain=chain.chain,
                    targets=[pb.TargetPlace(target=p.target, node=p.node) for p in chain.places],
                )
                for chain in self.plan
            ]
        )
        await admin.set_chain_table(TABLE, self.chains)
        await self.watcher.wait_for(self.whole, 30)
        self.runtime.spawn(self._watch(), name="watch")
        for process in self.of_kind("meta"):
            process.start()
        if self.of_kind("meta"):
            await self.watcher.wait_for(lambda r: any(n.type is NodeType.META for n in r.nodes.values()), 30)
        for process in self.of_kind("client"):
            process.start()
        await asyncio.gather(*(process.ready.wait() for process in self.processes.values()))

    def whole(self, routing: Routing) -> bool:
        """Every chain has all its targets serving."""
        return set(self.chains) <= routing.chains.keys() and all(
            state is PublicState.SERVING for chain in routing.chains.values() for state in chain.states
        )

    async def _watch(self) -> None:
        """Counts what chains go through; part of the trace."""
        assert self.watcher is not None
        seen = self.watcher.routing
        while True:
            new = await self.watcher.wait_newer(seen.version)
            for chain in new.chains.values():
                before = seen.chains[chain.id]
                if before == chain:
                    continue
                states = " ".join(f"{t}:{s.name}" for t, s in zip(chain.targets, chain.states, strict=True))
                self.record(f"chain {chain.id} v{chain.version} {states}")
                for target in chain.targets:
                    was, now = before.state_of(target), chain.state_of(target)
                    if was is PublicState.SYNCING and now is PublicState.SERVING:
                        self.counts["resyncs"] += 1
                    if now is PublicState.LASTSRV and was is not now:
                        self.counts["last serving"] += 1
            seen = new

    def heal(self) -> None:
        """No more faults, and everything that is down starts."""
        self.network.heal()
        self.network.faults = NetworkFaults()
        self.store_faults.conflict = self.store_faults.maybe_committed = self.store_faults.throttled = 0.0
        for process in self.processes.values():
            process.start()


class Workload:
    """What clients do; see `simulation.workload`."""

    def attach(self, client: ClientProcess) -> None:
        raise NotImplementedError
