"""Whole metadata daemons on a simulated network: registration, fail-over, dead clients, configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from tests.meta.harness import CHAINS, CHUNK, MemoryStorage

from threefs.client.meta.client import MetaClient, routed_nodes
from threefs.client.meta.fsck import check
from threefs.client.meta.scan import count_requests, scan_sessions
from threefs.client.routing import ClientSessionAgent, HeartbeatAgent, MgmtdClient, RoutingClient
from threefs.common.errors import NotServing, Timeout, UserError
from threefs.common.ids import ROOT_INODE, ChainTableId, ClientId, NodeId, TargetId
from threefs.common.kv.memory import MemoryEngine, MemoryStore
from threefs.common.net.simulated import NetworkFaults, SimulatedNetwork
from threefs.common.routing import Node, NodeStatus, NodeType
from threefs.common.runtime.simulated import SimulatedRuntime, Simulation
from threefs.meta.config import GarbageConfig, MetaConfig, RootConfig, SessionConfig
from threefs.meta.server import MetaServer
from threefs.mgmtd.config import MgmtdConfig
from threefs.mgmtd.server import MgmtdServer
from threefs.proto import mgmtd_pb2 as mgmtd_pb

pytestmark = pytest.mark.unit
T = TypeVar("T")
MGMTD = "mgmtd:1"


class Cluster:
    """One mgmtd, two metadata daemons on one store, no storage daemon: chains exist on paper."""

    def __init__(self, seed: int = 1) -> None:
        self.simulation = Simulation(seed)
        self.network = SimulatedNetwork(self.simulation, NetworkFaults())
        self.store = MemoryStore()
        self.storage = MemoryStorage()
        self.runtimes: dict[int, SimulatedRuntime] = {}
        self.metas: dict[int, MetaServer] = {}
        runtime = self.simulation.runtime("mgmtd")
        self.mgmtd = MgmtdServer(
            MgmtdConfig(listen=MGMTD, cluster_id="test", session_timeout_s=6.0),
            runtime=runtime,
            carrier=self.network.carrier(runtime, "mgmtd"),
            engine=MemoryEngine(runtime, MemoryStore()),
        )
        self.client_runtime = self.simulation.runtime("client")
        self.transport = self.network.carrier(self.client_runtime, "client").transport()
        self.admin = MgmtdClient(self.client_runtime, self.transport, [MGMTD])
        self.routing = RoutingClient(self.client_runtime, self.transport, [MGMTD])
        self.client = MetaClient(
            self.client_runtime,
            self.transport,
            routed_nodes(lambda: self.routing.routing),
            ClientId(self.client_runtime.uuid()),
            attempt_s=1.0,
        )

    def meta(self, number: int, life: int = 1) -> MetaServer:
        host = f"meta{number}"
        runtime = self.simulation.runtime(f"{host}#{life}")
        config = MetaConfig(
            node_id=50 + number,
            listen=f"{host}:1",
            mgmtd=[MGMTD],
            root=RootConfig(chunk_bytes=CHUNK, stripe=3),
            garbage=GarbageConfig(file_delay_s=1.0),
            sessions=SessionConfig(scan_interval_s=2.0, age_s_min=4.0),
        )
        server = MetaServer(
            config,
            runtime=runtime,
            carrier=self.network.carrier(runtime, host),
            engine=MemoryEngine(runtime, self.store),
            make_storage=lambda routing, transport: self.storage,
        )
        self.runtimes[number], self.metas[number] = runtime, server
        return server

    async def start(self) -> None:
        await self.mgmtd.start()
        await self.routing.start()
        for number in (1, 2):
            await self.meta(number).start()
        await self._make_chains()

    async def _make_chains(self) -> None:
        node = Node(NodeId(9), NodeType.STORAGE, NodeStatus.CONNECTING, "storage:1")
        self.storage_node = HeartbeatAgent(self.client_runtime, self.admin, node)
        await self.storage_node.start()
        settings = []
        for index, chain in enumerate(CHAINS):
            place = mgmtd_pb.TargetPlace(target=TargetId(1000 + index), node=NodeId(9))
            settings.append(mgmtd_pb.ChainSetting(chain=chain, targets=[place]))
        await self.admin.set_chains(settings)
        await self.admin.set_chain_table(ChainTableId(1), CHAINS)
        await self.routing.wait_for(lambda routing: bool(routing.tables), 10)

    def run(self, body: Callable[[], Awaitable[T]]) -> T:
        async def main() -> T:
            await self.start()
            result = await body()
            report = await check(self.client)
            assert report.problems == ()
            for server in self.metas.values():
                await server.stop()
            await self.storage_node.stop()
            await self.routing.stop()
            await self.mgmtd.stop()
            return result

        return self.simulation.run(main())


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float = 60.0) -> None:
    """Waits for a condition; fails if it does not come true."""
    deadline = asyncio.get_running_loop().time() + limit_s
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"not so within {limit_s} s"
        await asyncio.sleep(0.1)


def test_daemons_register_and_serve_one_namespace() -> None:
    cluster = Cluster()

    async def body() -> None:
        metas = [node for node in cluster.routing.routing.nodes.values() if node.type is NodeType.META]
        assert [(node.id, node.status) for node in metas] == [
            (51, NodeStatus.CONNECTED),
            (52, NodeStatus.CONNECTED),
        ]
        made = await cluster.client.mkdir(ROOT_INODE, b"d")
        for number in (1, 2):
            direct = MetaClient(
                cluster.client_runtime, cluster.transport, [f"meta{number}:1"], cluster.client.client_id
            )
            assert await direct.lookup(ROOT_INODE, b"d") == made

    cluster.run(body)


def test_a_client_rides_out_the_death_of_a_daemon() -> None:
    cluster = Cluster()

    async def body() -> None:
        acknowledged: list[str] = []
        longest = 0.0

        async def work(worker: int) -> None:
            nonlocal longest
            for number in range(40):
                name = f"w{worker}-{number}"
                began = cluster.client_runtime.now()
                await cluster.client.create(ROOT_INODE, name)
                longest = max(longest, cluster.client_runtime.now() - began)
                acknowledged.append(name)
                await asyncio.sleep(0.2)

        async def kill() -> None:
            for victim in (1, 2):
                await asyncio.sleep(2)
                cluster.runtimes[victim].crash()
                await asyncio.sleep(2)
                await cluster.meta(victim, life=2).start()

        await asyncio.gather(kill(), *(work(worker) for worker in range(4)))
        names = [item.entry.name.decode() async for item in cluster.client.list_all(ROOT_INODE)]
        assert sorted(acknowledged) == sorted(names)
        assert len(names) == 160
        assert longest < 10

    cluster.run(body)


def test_sessions_of_a_dead_client_end() -> None:
    cluster = Cluster()

    async def body() -> None:
        alive = ClientSessionAgent(cluster.client_runtime, cluster.admin, cluster.client.client_id)
        await alive.start()
        dead = MetaClient(
            cluster.client_runtime, cluster.transport, ["meta1:1", "meta2:1"], ClientId(cluster.client_runtime.uuid())
        )
        kept = await cluster.client.create(ROOT_INODE, b"kept")
        lost = await dead.create(ROOT_INODE, b"lost")
        assert lost.inode.layout is not None
        for index in range(2):
            cluster.storage.put(lost.inode.layout.chains[index], lost.inode.id, index, CHUNK)

        async def only_the_living() -> bool:
            return [s.session async for s in scan_sessions(cluster.client)] == [kept.session]

        await until(only_the_living)
        assert (await cluster.client.stat(lost.inode.id)).length == 2 * CHUNK
        await asyncio.sleep(20)
        assert await only_the_living()
        await alive.stop()

    cluster.run(body)


def test_garbage_and_requests_are_cleaned_by_themselves() -> None:
    cluster = Cluster()

    async def body() -> None:
        opened = await cluster.client.create(ROOT_INODE, b"f")
        assert opened.inode.layout is not None
        cluster.storage.put(opened.inode.layout.chains[0], opened.inode.id, 0, 5)
        await cluster.client.close(opened.inode.id, opened.session, None)
        await cluster.client.unlink(ROOT_INODE, b"f")

        async def freed() -> bool:
            return not cluster.storage.chunks

        async def forgotten() -> bool:
            return await count_requests(cluster.client) == 0

        await until(freed, 30)
        await until(forgotten, 1000)

    cluster.run(body)


def test_the_store_of_another_cluster_is_refused() -> None:
    cluster = Cluster()

    async def body() -> None:
        stranger = cluster.meta(3)
        stranger.config = stranger.config.model_copy(update={"cluster_id": "other"})
        with pytest.raises(UserError, match="belongs to cluster 'test'"):
            await stranger.start()
        await stranger.stop()
        del cluster.metas[3]

    cluster.run(body)


def test_hot_configuration() -> None:
    cluster = Cluster()

    async def body() -> None:
        server = cluster.metas[1]
        text = "[garbage]\nconcurrency = 3\n[tuning]\nlist_limit = 7\n"
        await cluster.admin.set_config(NodeType.META, "authenticate = true\n" + text)

        async def taken() -> bool:
            return server.env.config.tuning.list_limit == 7

        await until(taken)
        assert server.env.config.authenticate
        assert server.env.config.garbage.concurrency == 32  # waits for a restart
        await cluster.admin.set_config(NodeType.META, text)

        async def off_again() -> bool:
            return not server.env.config.authenticate

        await until(off_again)
        await server.stop()
        again = cluster.meta(1, life=2)
        await again.start()
        assert again.env.config.garbage.concurrency == 3
        await again.stop()
        del cluster.metas[1]

    cluster.run(body)


def test_without_a_chain_table_files_wait_and_directories_do_not() -> None:
    cluster = Cluster()

    async def body() -> None:
        impatient = MetaClient(
            cluster.client_runtime, cluster.transport, ["meta1:1"], cluster.client.client_id, timeout_s=2.0
        )
        cluster.metas[1].env.layouts._routing = lambda: type(cluster.routing.routing)()
        with pytest.raises(NotServing, match="chain table 1"):
            await impatient.create(ROOT_INODE, b"f")
        await impatient.mkdir(ROOT_INODE, b"d")

    cluster.run(body)


def test_nobody_answers() -> None:
    cluster = Cluster()

    async def body() -> None:
        for number in (1, 2):
            cluster.network.cut("client", f"meta{number}")
        impatient = MetaClient(
            cluster.client_runtime,
            cluster.transport,
            ["meta1:1", "meta2:1"],
            cluster.client.client_id,
            timeout_s=3.0,
            attempt_s=0.5,
        )
        began = cluster.client_runtime.now()
        with pytest.raises(Timeout):
            await impatient.stat(ROOT_INODE)
        assert 3 <= cluster.client_runtime.now() - began < 6
        cluster.network.heal()

    cluster.run(body)
