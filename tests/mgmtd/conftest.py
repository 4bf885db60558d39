"""A cluster of mgmtds and make-believe storage daemons on virtual time: real mgmtd, client and agent code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from threefs.client.routing import ClientSessionAgent, HeartbeatAgent, MgmtdClient, RoutingClient, TargetStatus
from threefs.common.ids import ChainId, ChainVersion, ClientId, NodeId, TargetId
from threefs.common.kv.memory import MemoryEngine, MemoryStore
from threefs.common.net.simulated import NetworkFaults, SimulatedNetwork
from threefs.common.routing import LocalState, Node, NodeStatus, NodeType, PublicState, Routing
from threefs.common.runtime.simulated import SimulatedRuntime, Simulation
from threefs.mgmtd.config import MgmtdConfig
from threefs.mgmtd.server import MgmtdServer
from threefs.proto import mgmtd_pb2 as pb


@dataclass
class Daemon:
    """A storage daemon that has targets but no data: it keeps the restart rule and syncs in no time."""

    runtime: SimulatedRuntime
    agent: HeartbeatAgent
    routing: RoutingClient
    targets: dict[TargetId, LocalState]
    log: list[str] = field(default_factory=list)

    async def start(self) -> None:
        await self.routing.start()
        await self.agent.start()
        self.runtime.spawn(self._follow(), name="follow")

    async def _follow(self) -> None:
        version = self.routing.routing.version
        while True:
            self._look(self.routing.routing)
            self.agent.poke()
            version = (await self.routing.wait_newer(version)).version

    def _look(self, routing: Routing) -> None:
        for target in self.targets:
            public = routing.targets[target].public if target in routing.targets else None
            if public in (PublicState.OFFLINE, PublicState.LASTSRV):
                self.targets[target] = LocalState.ONLINE
            elif public is PublicState.SYNCING:
                self.targets[target] = LocalState.UPTODATE

    def statuses(self) -> list[TargetStatus]:
        chains = self.routing.routing
        return [
            TargetStatus(
                target,
                local,
                chains.chains[chains.targets[target].chain].version if target in chains.targets else ChainVersion(0),
                used_bytes=1000,
            )
            for target, local in self.targets.items()
        ]


class MiniCluster:
    def __init__(self, seed: int = 1) -> None:
        self.simulation = Simulation(seed)
        self.network = SimulatedNetwork(self.simulation, NetworkFaults())
        self.store = MemoryStore()
        self.mgmtds: dict[int, MgmtdServer] = {}
        self.runtimes: dict[str, SimulatedRuntime] = {}
        self.daemons: dict[int, Daemon] = {}
        self._lives = 0

    def runtime(self, host: str) -> SimulatedRuntime:
        self._lives += 1
        self.runtimes[host] = self.simulation.runtime(f"{host}#{self._lives}")
        return self.runtimes[host]

    @property
    def addresses(self) -> list[str]:
        return [f"mgmtd{n}:1" for n in (1, 2)]

    async def start_mgmtd(self, number: int = 1, **settings: Any) -> MgmtdServer:
        runtime = self.runtime(f"mgmtd{number}")
        server = MgmtdServer(
            MgmtdConfig(node_id=number, listen=f"mgmtd{number}:1", **settings),
            runtime=runtime,
            carrier=self.network.carrier(runtime, f"mgmtd{number}"),
            engine=MemoryEngine(runtime, self.store),
        )
        await server.start()
        self.mgmtds[number] = server
        return server

    def daemon(self, node: int, *targets: int, local: LocalState = LocalState.OFFLINE, **agent: Any) -> Daemon:
        host = f"storage{node}"
        runtime = self.runtime(host)
        transport = self.network.carrier(runtime, host).transport()
        routing = RoutingClient(runtime, transport, self.addresses)
        about = Node(NodeId(node), NodeType.STORAGE, NodeStatus.CONNECTING, f"{host}:1", hostname=host, pid=self._lives)
        found = Daemon(runtime, None, routing, {TargetId(t): local for t in targets})  # type: ignore[arg-type]
        found.agent = HeartbeatAgent(runtime, routing.mgmtd, about, routing=routing, targets=found.statuses, **agent)
        self.daemons[node] = found
        return found

    def client(self, name: str = "admin") -> MgmtdClient:
        runtime = self.runtime(name)
        return MgmtdClient(runtime, self.network.carrier(runtime, name).transport(), self.addresses)

    async def routing_client(self, name: str = "watcher") -> RoutingClient:
        runtime = self.runtime(name)
        client = RoutingClient(runtime, self.network.carrier(runtime, name).transport(), self.addresses)
        await client.start()
        return client

    def session(self, name: str, **settings: Any) -> ClientSessionAgent:
        runtime = self.runtime(name)
        mgmtd = MgmtdClient(runtime, self.network.carrier(runtime, name).transport(), self.addresses)
        return ClientSessionAgent(runtime, mgmtd, ClientId(runtime.uuid()), description=name, **settings)

    async def with_chain(self, count: int = 3) -> RoutingClient:
        """mgmtd 1, `count` daemons 11, 12, … with targets 101, 102, … in chain 1, all serving; a watcher."""
        await self.start_mgmtd()
        for n in range(count):
            await self.daemon(11 + n, 101 + n, local=LocalState.UPTODATE).start()
        places = [pb.TargetPlace(target=101 + n, node=11 + n) for n in range(count)]
        await self.client().set_chains([pb.ChainSetting(chain=1, targets=places)])
        watcher = await self.routing_client()
        await watcher.wait_for(all_serving, 1)
        return watcher

    def crash(self, host: str) -> None:
        self.runtimes[host].crash()

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.simulation.run(main())


def states(routing: Routing, chain: int = 1) -> dict[int, str]:
    found = routing.chains[ChainId(chain)]
    return {target: state.name for target, state in zip(found.targets, found.states, strict=True)}


def all_serving(routing: Routing) -> bool:
    return ChainId(1) in routing.chains and set(states(routing).values()) == {"SERVING"}


@pytest.fixture
def mini() -> MiniCluster:
    return MiniCluster()
