"""The metadata service in one process on virtual time: memory store, memory storage, real client over loopback.

Every test that uses `Room.run` ends in a check of the whole namespace.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from threefs.client.meta.client import MetaClient
from threefs.client.meta.fsck import check
from threefs.client.storage.types import LastChunk, ReadIO, WriteIO
from threefs.common.errors import FileError, Timeout
from threefs.common.files import Credentials
from threefs.common.ids import ChainId, ChainTableId, ChunkId, ClientId, InodeId, NodeId, RoutingVersion
from threefs.common.kv.interface import KvEngine
from threefs.common.kv.memory import MemoryEngine, MemoryFaults, MemoryStore
from threefs.common.net.loopback import LoopbackCarrier
from threefs.common.net.service import bind
from threefs.common.routing import ChainTable, Node, NodeStatus, NodeType, Routing
from threefs.common.runtime.interface import Runtime
from threefs.common.runtime.simulated import Simulation
from threefs.meta.bootstrap import prepare_store
from threefs.meta.config import GarbageConfig, RootConfig, ServiceConfig, SessionConfig
from threefs.meta.context import Environment
from threefs.meta.gc import Collector
from threefs.meta.service import MetaService
from threefs.meta.sessions import SessionPruner
from threefs.meta.workers import Ownership
from threefs.proto.meta_rpc import Meta

T = TypeVar("T")

ROOT = Credentials(0, 0)
ALICE = Credentials(1000, 1000, (1000, 50))
BOB = Credentials(1001, 1001)
CHUNK = 64 << 10
CHAINS = tuple(ChainId(100 + i) for i in range(4))
CONFIG = ServiceConfig(
    root=RootConfig(chain_table=1, chunk_bytes=CHUNK, stripe=3),
    garbage=GarbageConfig(file_delay_s=5.0, retry_s=5.0),
    sessions=SessionConfig(age_s_min=60.0),
)


class MemoryStorage:
    """Chunks as lengths only: what metadata asks storage for. A stand-in for a cluster's storage."""

    def __init__(self) -> None:
        self.chunks: dict[tuple[ChainId, InodeId, int], int] = {}
        self.calls: list[str] = []
        self.failing = False
        self.before_remove: Callable[[], Awaitable[None]] | None = None

    def put(self, chain: ChainId, inode: InodeId, index: int, length: int) -> None:
        key = (chain, inode, index)
        self.chunks[key] = max(self.chunks.get(key, 0), length)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.failing:
            raise Timeout(f"injected: storage does not answer {name}")

    async def read(self, ios: Sequence[ReadIO], *, timeout_s: float | None = None) -> None:
        raise AssertionError("metadata reads no chunk")

    async def write(self, ios: Sequence[WriteIO], *, timeout_s: float | None = None) -> None:
        raise AssertionError("metadata writes no chunk")

    async def truncate_chunk(
        self, chain: ChainId, chunk: ChunkId, *, length: int, chunk_bytes: int, extend_only: bool = False
    ) -> None:
        self._call("truncate_chunk")
        key = (chain, chunk.inode, chunk.number)
        old = self.chunks.get(key, 0)
        if length or key in self.chunks:
            self.chunks[key] = max(old, length) if extend_only else length

    async def remove_chunks(self, chain: ChainId, inode: InodeId, *, first: int, last: int, limit: int = 1024) -> int:
        self._call("remove_chunks")
        if self.before_remove is not None:
            await self.before_remove()
        doomed = [k for k in self.chunks if k[0] == chain and k[1] == inode and first <= k[2] < last][:limit]
        for key in doomed:
            del self.chunks[key]
        return len(doomed)

    async def query_last_chunk(self, chain: ChainId, inode: InodeId) -> LastChunk:
        self._call("query_last_chunk")
        found = {k[2]: length for k, length in self.chunks.items() if k[0] == chain and k[1] == inode}
        last = max(found, default=-1)
        return LastChunk(last, found.get(last, 0), len(found))

    async def space(self) -> tuple[int, int]:
        self._call("space")
        return 1 << 40, 1 << 39


@dataclass(slots=True)
class Daemon:
    env: Environment
    engine: Any  # a MemoryEngine, whose faults tests change, unless the room is real
    service: MetaService
    collector: Collector
    pruner: SessionPruner


class Room:
    """One or more metadata daemons on one store, and a client."""

    def __init__(
        self,
        *,
        seed: int = 1,
        daemons: int = 1,
        config: ServiceConfig = CONFIG,
        faults: MemoryFaults | None = None,
        real: tuple[Runtime, Sequence[KvEngine]] | None = None,  # instead of virtual time and a memory store
    ) -> None:
        self.seed = seed
        self._simulation = None if real else Simulation(seed)
        self._real = real
        self.runtime = real[0] if real else self.simulation.runtime("client")
        self.store = MemoryStore()
        self.storage = MemoryStorage()
        self.carrier = LoopbackCarrier()
        self.live_clients: frozenset[ClientId] | None = frozenset()
        addresses = [f"meta-{number}" for number in range(daemons)]
        nodes = {
            NodeId(number): Node(NodeId(number), NodeType.META, NodeStatus.CONNECTED, address)
            for number, address in enumerate(addresses)
        }
        tables = {(ChainTableId(1), 1): ChainTable(ChainTableId(1), 1, CHAINS)}
        self.routing = Routing(RoutingVersion(1), "test", nodes, tables=tables)
        self.daemons = [self._daemon(number, config, faults) for number in range(daemons)]
        self.env = self.daemons[0].env
        self.client = self.new_client()

    def _daemon(self, number: int, config: ServiceConfig, faults: MemoryFaults | None) -> Daemon:
        if self._real is not None:
            runtime, engine = self._real[0], self._real[1][number]
        else:
            runtime = self.simulation.runtime(f"meta-{number}")
            engine = MemoryEngine(runtime, self.store, faults)
        env = Environment(config, runtime=runtime, engine=engine, storage=self.storage, routing=lambda: self.routing)
        owns = Ownership(NodeId(number), env.routing).owns
        pruner = SessionPruner(env, owns, self._live)
        return Daemon(env, engine, MetaService(env), Collector(env, owns), pruner)

    @property
    def simulation(self) -> Simulation:
        assert self._simulation is not None, "this room lives in real time"
        return self._simulation

    async def _live(self) -> frozenset[ClientId] | None:
        return self.live_clients

    def new_client(self, user: Credentials = ROOT) -> MetaClient:
        addresses = [node.address for node in self.routing.nodes.values()]
        transport = self.carrier.transport()
        return MetaClient(self.runtime, transport, addresses, ClientId(self.runtime.uuid()), user=user)

    async def start(self) -> None:
        for number, daemon in enumerate(self.daemons):
            await prepare_store(daemon.env, "test")
            await self.carrier.server(f"meta-{number}", bind(daemon.service, Meta)).start()

    def run(self, body: Callable[[], Awaitable[T]]) -> T:
        """Runs a test's body, then checks the namespace."""

        async def main() -> T:
            await self.start()
            result = await body()
            await self.check()
            return result

        return self.simulation.run(main())

    async def check(self) -> None:
        if self._real is None:
            for daemon in self.daemons:
                daemon.engine.faults = MemoryFaults()
        report = await check(self.client, self.storage)
        assert report.problems == (), report.problems

    async def tick(self, seconds: float = 0.001) -> None:
        """Lets time pass, so that the next operation has a later time."""
        await asyncio.sleep(seconds)

    async def collect(self, rounds: int = 12, step_s: float = 5.0) -> None:
        """Runs every daemon's collector until nothing is left, or so many rounds."""
        for _ in range(rounds):
            for daemon in self.daemons:
                await daemon.collector.round()
            await asyncio.sleep(step_s)

    def write(self, inode: InodeId, chains: Sequence[ChainId], length: int) -> None:
        """What a client's writes leave in storage: every byte up to `length`."""
        for index in range(-(-length // CHUNK)):
            self.storage.put(chains[index % len(chains)], inode, index, min(CHUNK, length - index * CHUNK))

    def stored(self, inode: InodeId) -> dict[int, int]:
        """Lengths of the chunks that storage has of an inode."""
        return {key[2]: length for key, length in self.storage.chunks.items() if key[1] == inode}


async def refused(number: int, work: Awaitable[object]) -> None:
    """The work must fail with this errno."""
    with pytest.raises(FileError) as caught:
        await work
    assert caught.value.errno == number, (
        f"expected {errno.errorcode[number]}, got {errno.errorcode[caught.value.errno]}: {caught.value}"
    )
