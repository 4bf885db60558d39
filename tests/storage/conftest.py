"""A chain of storage daemons on virtual time: real mgmtd, daemons and client; disks that tests may spoil."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from threefs.client.routing import MgmtdClient, RoutingClient
from threefs.client.storage.client import ChainStorageClient
from threefs.client.storage.types import ReadIO, WriteIO
from threefs.common.ids import ChainId, ChunkId, InodeId, TargetId
from threefs.common.kv.memory import MemoryEngine, MemoryStore
from threefs.common.net.interface import Transport
from threefs.common.net.simulated import NetworkFaults, SimulatedNetwork
from threefs.common.routing import Chain, PublicState, Routing
from threefs.common.runtime.simulated import SimulatedRuntime, Simulation
from threefs.mgmtd.config import MgmtdConfig
from threefs.mgmtd.server import MgmtdServer
from threefs.proto import mgmtd_pb2 as pb
from threefs.storage.config import DiskConfig, StorageConfig
from threefs.storage.engine import ChunkMeta
from threefs.storage.server import StorageServer
from threefs.storage.simulated_engine import SimulatedDisk, SimulatedEngine

CHAIN = ChainId(1)
CHUNK_BYTES = 64 << 10
INODE = InodeId(0x1000)


def chunk(number: int = 0) -> ChunkId:
    return ChunkId(INODE, number)


class Cluster:
    """Daemon n has node 10+n and target 100+n, all in chain 1; daemon 1 is the head at first."""

    def __init__(self, count: int = 3, seed: int = 1) -> None:
        self.simulation = Simulation(seed)
        self.network = SimulatedNetwork(self.simulation, NetworkFaults())
        self.count = count
        self.disks = {n: SimulatedDisk(latency_s=(0.0005, 0.002)) for n in self.numbers}
        self.servers: dict[int, StorageServer] = {}
        self.runtimes: dict[str, SimulatedRuntime] = {}
        self.routing: RoutingClient
        self.client: ChainStorageClient
        self.transport: Transport
        self._store = MemoryStore()
        self._lives = 0

    @property
    def numbers(self) -> range:
        return range(1, self.count + 1)

    def runtime(self, host: str) -> SimulatedRuntime:
        self._lives += 1
        self.runtimes[host] = self.simulation.runtime(f"{host}#{self._lives}")
        return self.runtimes[host]

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            await self._bring_up()
            await main()

        self.simulation.run(whole())

    async def _bring_up(self) -> None:
        runtime = self.runtime("mgmtd")
        mgmtd = MgmtdServer(
            MgmtdConfig(node_id=1, listen="mgmtd:1"),
            runtime=runtime,
            carrier=self.network.carrier(runtime, "mgmtd"),
            engine=MemoryEngine(runtime, self._store),
        )
        await mgmtd.start()
        for n in self.numbers:
            await self.start(n)
        runtime = self.runtime("client")
        self.transport = self.network.carrier(runtime, "client").transport()
        self.routing = RoutingClient(runtime, self.transport, ["mgmtd:1"])
        await self.routing.start()
        places = [pb.TargetPlace(target=100 + n, node=10 + n) for n in self.numbers]
        await MgmtdClient(runtime, self.transport, ["mgmtd:1"]).set_chains([pb.ChainSetting(chain=1, targets=places)])
        self.client = self.new_client(runtime)
        await self.whole()

    def new_client(self, runtime: SimulatedRuntime, **options: Any) -> ChainStorageClient:
        return ChainStorageClient(runtime, self.transport, self.routing, **options)

    async def start(self, n: int, **settings: Any) -> None:
        host = f"storage{n}"
        runtime = self.runtime(host)

        async def open_engine(index: int, config: DiskConfig) -> SimulatedEngine:
            engine = SimulatedEngine(runtime, self.disks[n])
            await engine.create_target(TargetId(100 + n))
            return engine

        config = StorageConfig(
            node_id=10 + n, listen=f"{host}:1", mgmtd=["mgmtd:1"], disks=[DiskConfig(path="simulated")], **settings
        )
        carrier = self.network.carrier(runtime, host)
        self.servers[n] = StorageServer(config, runtime=runtime, carrier=carrier, open_engine=open_engine)
        await self.servers[n].start()

    def crash(self, n: int) -> None:
        self.runtimes[f"storage{n}"].crash()
        self.disks[n].crash(self.simulation.random)

    @property
    def chain(self) -> Chain:
        return self.routing.routing.chains[CHAIN]

    def target(self, n: int) -> TargetId:
        return TargetId(100 + n)

    async def until(self, predicate: Callable[[Routing], bool], timeout_s: float = 30.0) -> None:
        await self.routing.wait_for(predicate, timeout_s)

    async def whole(self) -> None:
        """All targets serve, by the map and by the daemons themselves."""
        await self.until(lambda routing: CHAIN in routing.chains and len(routing.chains[CHAIN].serving()) == self.count)
        await self.until_settled(*self.numbers)

    async def until_settled(self, *numbers: int) -> None:
        for _ in range(1000):
            if all(t.life.phase.name == "UPTODATE" for n in numbers for t in self.servers[n].targets):
                return
            await self.runtimes["client"].sleep(0.01)
        raise AssertionError("a target that serves by the map never became up to date")

    async def gone(self, n: int) -> None:
        """The map has taken daemon n out of the chain's serving part."""
        await self.until(lambda routing: routing.chains[CHAIN].state_of(self.target(n)) is not PublicState.SERVING)

    # --- data ----------------------------------------------------------------------------------------------------

    async def write(self, number: int, data: bytes, offset: int = 0) -> None:
        io = WriteIO(CHAIN, chunk(number), offset, memoryview(data), CHUNK_BYTES)
        await self.client.write([io])
        if io.error is not None:
            raise io.error

    async def read(self, number: int, length: int = CHUNK_BYTES, offset: int = 0) -> bytes:
        buffer = bytearray(length)
        io = ReadIO(CHAIN, chunk(number), offset, memoryview(buffer))
        await self.client.read([io])
        if io.error is not None:
            raise io.error
        return bytes(buffer[: io.length])

    async def metas(self, n: int) -> dict[int, ChunkMeta]:
        engine = self.disks[n].engine
        assert engine is not None
        found = await engine.list(self.target(n), ChunkId(InodeId(0), 0), ChunkId(InodeId(2**60), 0))
        return {meta.chunk.number: meta for meta in found}

    async def assert_equal_replicas(self) -> dict[int, tuple[int, int, int]]:
        """(version, length, CRC32C) of every chunk, which all replicas agree on, with nothing pending."""
        contents = []
        for n in self.numbers:
            metas = await self.metas(n)
            assert not any(meta.pending for meta in metas.values()), f"pending on daemon {n}: {metas}"
            contents.append({k: (m.committed, m.length, m.crc32c) for k, m in metas.items()})
        assert all(content == contents[0] for content in contents), contents
        return contents[0]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()
