"""The real metadata service over a storage client that keeps chunks in this process: the mount without daemons.

The storage client is a stand-in, for tests of the bridge, of the mount's operations and of open files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from threefs.client.meta.client import MetaClient
from threefs.client.storage.types import LastChunk, ReadIO, WriteIO
from threefs.common.ids import ChainId, ChainTableId, ChainVersion, ChunkId, ClientId, InodeId, RoutingVersion
from threefs.common.kv.memory import MemoryEngine
from threefs.common.net.loopback import Loopback, LoopbackServer
from threefs.common.net.service import bind
from threefs.common.routing import Chain, ChainTable, Routing
from threefs.common.runtime.interface import Runtime
from threefs.meta.bootstrap import prepare_store
from threefs.meta.config import RootConfig, ServiceConfig
from threefs.meta.context import Environment
from threefs.meta.service import MetaService
from threefs.proto.meta_rpc import Meta

CHAINS = tuple(ChainId(number) for number in range(1, 5))
_TABLE = ChainTable(ChainTableId(1), 1, CHAINS)


class MemoryStorage:
    def __init__(self) -> None:
        self.chunks: dict[tuple[ChainId, ChunkId], bytearray] = {}
        self.reads = 0
        self.answers = asyncio.Event()  # cleared: reads, writes and truncations wait
        self.answers.set()
        self.error: Exception | None = None  # every write fails with it

    async def read(self, ios: Sequence[ReadIO], *, timeout_s: float | None = None) -> None:
        self.reads += len(ios)
        await self.answers.wait()
        for io in ios:
            chunk = memoryview(self.chunks.get((io.chain, io.chunk), b""))
            found = chunk[io.offset : io.offset + len(io.buffer)]
            io.buffer[: len(found)] = found
            io.length = len(found)

    async def write(self, ios: Sequence[WriteIO], *, timeout_s: float | None = None) -> None:
        await self.answers.wait()
        for io in ios:
            if self.error is not None:
                raise self.error
            chunk = self.chunks.setdefault((io.chain, io.chunk), bytearray())
            end = io.offset + len(io.data)
            assert end <= io.chunk_bytes
            chunk.extend(bytes(max(end - len(chunk), 0)))
            chunk[io.offset : end] = io.data

    async def truncate_chunk(
        self, chain: ChainId, chunk: ChunkId, *, length: int, chunk_bytes: int, extend_only: bool = False
    ) -> None:
        await self.answers.wait()
        found = self.chunks.get((chain, chunk), bytearray())
        if length > len(found):
            found.extend(bytes(length - len(found)))
            self.chunks[chain, chunk] = found
        elif not extend_only:
            del found[length:]

    def _of(self, chain: ChainId, inode: InodeId) -> list[ChunkId]:
        return sorted(chunk for place, chunk in self.chunks if place == chain and chunk.inode == inode)

    async def remove_chunks(self, chain: ChainId, inode: InodeId, *, first: int, last: int, limit: int = 1024) -> int:
        doomed = [chunk for chunk in self._of(chain, inode) if first <= chunk.number < last][:limit]
        for chunk in doomed:
            del self.chunks[chain, chunk]
        return len(doomed)

    async def query_last_chunk(self, chain: ChainId, inode: InodeId) -> LastChunk:
        chunks = self._of(chain, inode)
        if not chunks:
            return LastChunk(-1, 0, 0)
        return LastChunk(chunks[-1].number, len(self.chunks[chain, chunks[-1]]), len(chunks))

    async def space(self) -> tuple[int, int]:
        return 1 << 40, 1 << 39


ROUTING = Routing(
    RoutingVersion(1),
    "memory",
    chains={chain: Chain(chain, ChainVersion(1), (), ()) for chain in CHAINS},
    tables={(_TABLE.id, _TABLE.version): _TABLE},
)


async def start_meta(
    runtime: Runtime, storage: MemoryStorage, *, chunk_bytes: int = 1 << 20
) -> tuple[MetaClient, Environment]:
    """A client of a metadata service on a memory store, and that service's parts."""
    config = ServiceConfig(root=RootConfig(chunk_bytes=chunk_bytes, stripe=len(CHAINS)))
    environment = Environment(
        config, runtime=runtime, engine=MemoryEngine(runtime), storage=storage, routing=lambda: ROUTING
    )
    await prepare_store(environment, "memory")
    loopback = Loopback()
    await LoopbackServer(loopback, "meta", bind(MetaService(environment), Meta)).start()
    return MetaClient(runtime, loopback, ["meta"], ClientId(runtime.uuid()), timeout_s=5.0), environment
