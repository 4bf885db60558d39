"""The storage client: elements to daemons and back, in parallel, until they succeed or time is over.

Used by open files, the mount, metadata and tools, through `client.storage.types.StorageClient`. The one rule:
an element ends without error only if every byte of it was checked against the CRC32C that was computed where the
bytes were (by this client for writes, by the chunk engine for reads).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from threefs.client.storage import metrics
from threefs.client.storage.batches import Change, merge_writes
from threefs.client.storage.channels import ChannelPool
from threefs.client.storage.readers import ReadRunner
from threefs.client.storage.routes import (
    RoutingView,
    address_of,
    chain_of,
    gather_bounded,
    refresh_quietly,
    serving_of,
)
from threefs.client.storage.types import LastChunk, ReadIO, WriteIO
from threefs.client.storage.writers import WriteRunner
from threefs.common.errors import BadRequest, Busy, ThreefsError
from threefs.common.ids import CHUNK_INDEX_MAX, ChainId, ChunkId, ClientId, InodeId, TargetId
from threefs.common.net.interface import Transport
from threefs.common.net.service import Retry, invoke
from threefs.common.routing import Chain, NodeType
from threefs.common.runtime.interface import Runtime
from threefs.proto import storage_pb2 as pb
from threefs.proto.data_plane import KIND_EXTEND
from threefs.proto.rpc import Method
from threefs.proto.storage_rpc import Storage

ReplyT = TypeVar("ReplyT", bound=Message)

DEFAULT_TIMEOUT_S = 60.0
REMOVE_ATTEMPT_S = 30.0
CONTROL_ATTEMPT_S = 10.0


class ChainStorageClient:
    """Satisfies `StorageClient` over a transport and the cluster map."""

    def __init__(
        self,
        runtime: Runtime,
        transport: Transport,
        routing: RoutingView,
        *,
        client: ClientId | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        relaxed_reads: bool = False,
    ) -> None:
        self._runtime = runtime
        self._transport = transport
        self._routing = routing
        self._timeout_s = timeout_s
        self._channels = ChannelPool(client or ClientId(runtime.uuid()))
        self._reads = ReadRunner(runtime, transport, routing, relaxed=relaxed_reads)
        self._writes = WriteRunner(runtime, transport, routing)

    # --- data --------------------------------------------------------------------------------------------------

    async def read(self, ios: Sequence[ReadIO], *, timeout_s: float | None = None) -> None:
        for io in ios:
            io.length, io.error = 0, None
        await self._reads.run(ios, self._timeout_s if timeout_s is None else timeout_s)
        metrics.READ_OPS.inc(len(ios))
        metrics.READ_BYTES.inc(sum([io.length for io in ios]))

    async def write(self, ios: Sequence[WriteIO], *, timeout_s: float | None = None) -> None:
        """Several elements for one chunk are carried out in their order; those that touch go as one."""
        wanted: list[WriteIO] = []
        for io in ios:
            io.error = None
            if io.offset < 0 or io.offset + len(io.data) > io.chunk_bytes:
                io.error = BadRequest(f"{len(io.data)} bytes at {io.offset} exceed a chunk of {io.chunk_bytes}")
            elif len(io.data):
                wanted.append(io)
        changes = merge_writes(wanted)
        await self._apply(changes, timeout_s)
        for change in changes:
            for io in change.ios:
                io.error = change.error
        metrics.WRITE_OPS.inc(len(wanted))
        metrics.WRITE_BYTES.inc(sum([len(io.data) for io in wanted]))

    async def _apply(self, changes: Sequence[Change], timeout_s: float | None) -> None:
        for change in changes:
            change.ticket = self._channels.take()
        try:
            await self._writes.run(changes, self._timeout_s if timeout_s is None else timeout_s)
        finally:
            for change in changes:
                assert change.ticket is not None
                self._channels.give_back(change.ticket)

    async def truncate_chunk(
        self, chain: ChainId, chunk: ChunkId, *, length: int, chunk_bytes: int, extend_only: bool = False
    ) -> None:
        if not 0 <= length <= chunk_bytes:
            raise BadRequest(f"length {length} is out of range for a chunk of {chunk_bytes}")
        if extend_only:
            change = Change(chain, chunk, chunk_bytes, KIND_EXTEND, 0, length)
            await self._apply([change], None)
            if change.error is not None:
                raise change.error
            return
        retry = Retry(self._runtime, self._timeout_s, first_s=0.005, most_s=0.5)
        while await self._truncate(chain, chunk, length, chunk_bytes):
            await retry.pause(Busy(f"chunk {chunk} is written again and again while it is to be cut"))

    async def _truncate(self, chain: ChainId, chunk: ChunkId, length: int, chunk_bytes: int) -> bool:
        """Looks at the chunk and cuts it as it was seen; True if somebody changed it in between."""
        found = await self._find(chain, chunk.inode, chunk.number, chunk.number + 1, 1)
        seen = found[0] if found else pb.SeenChunk(number=chunk.number)
        ticket = self._channels.take()
        identity = pb.Ticket(client=ticket.client, channel=ticket.channel, sequence=ticket.sequence)

        def request(at: pb.ChainTarget) -> pb.TruncateChunkRequest:
            return pb.TruncateChunkRequest(
                at=at, inode=chunk.inode, chunk=seen, length=length, chunk_bytes=chunk_bytes, ticket=identity
            )

        try:
            reply = await self._ask_chain(chain, _head, Storage.TRUNCATE_CHUNK, request, CONTROL_ATTEMPT_S)
        finally:
            self._channels.give_back(ticket)
        return reply.changed

    # --- control -----------------------------------------------------------------------------------------------

    async def remove_chunks(self, chain: ChainId, inode: InodeId, *, first: int, last: int, limit: int = 1024) -> int:
        if not 0 <= first <= last <= CHUNK_INDEX_MAX + 1:
            raise BadRequest(f"chunks {first} to {last} are out of range")
        found = await self._find(chain, inode, first, last, min(limit, 1024))
        if found:

            def request(at: pb.ChainTarget) -> pb.RemoveChunksRequest:
                return pb.RemoveChunksRequest(at=at, inode=inode, chunks=found)

            await self._ask_chain(chain, _head, Storage.REMOVE_CHUNKS, request, REMOVE_ATTEMPT_S)
        return len(found)

    async def _find(self, chain: ChainId, inode: InodeId, first: int, last: int, limit: int) -> Sequence[pb.SeenChunk]:
        """What the head has; to be changed only if it is still that."""

        def request(at: pb.ChainTarget) -> pb.FindChunksRequest:
            return pb.FindChunksRequest(at=at, inode=inode, first=first, last=last, limit=limit)

        reply = await self._ask_chain(chain, _head, Storage.FIND_CHUNKS, request, CONTROL_ATTEMPT_S)
        return reply.chunks

    async def query_last_chunk(self, chain: ChainId, inode: InodeId) -> LastChunk:
        def request(at: pb.ChainTarget) -> pb.QueryLastChunkRequest:
            return pb.QueryLastChunkRequest(at=at, inode=inode)

        reply = await self._ask_chain(chain, _last_serving, Storage.QUERY_LAST_CHUNK, request, CONTROL_ATTEMPT_S)
        return LastChunk(reply.index, reply.length, reply.chunk_count)

    async def _ask_chain(
        self,
        chain_id: ChainId,
        choose: Callable[[Chain], TargetId],
        method: Method[Any, ReplyT],
        make_request: Callable[[pb.ChainTarget], Message],
        attempt_s: float,
    ) -> ReplyT:
        """One control call to a target of a chain, repeated along the newest map."""
        retry = Retry(self._runtime, self._timeout_s, first_s=0.005, most_s=0.5)
        while True:
            try:
                chain = chain_of(self._routing.routing, chain_id)
                target = choose(chain)
                at = pb.ChainTarget(target=target, chain=chain_id, chain_version=chain.version)
                address = address_of(self._routing.routing, target)
                limit_s = max(min(attempt_s, retry.left_s), 0.001)
                return await invoke(self._transport, address, method, make_request(at), timeout_s=limit_s)
            except ThreefsError as exc:
                await retry.pause(exc)
                await refresh_quietly(self._routing)

    async def space(self) -> tuple[int, int]:
        """Capacity and free bytes of all disks, divided by the usual number of replicas."""
        routing = self._routing.routing
        nodes = [node for node in routing.nodes.values() if node.type is NodeType.STORAGE]
        found = await gather_bounded([self._space_of(node.address) for node in nodes], 32)
        replicas = max((len(chain.targets) for chain in routing.chains.values()), default=1) or 1
        return sum(space[0] for space in found) // replicas, sum(space[1] for space in found) // replicas

    async def _space_of(self, address: str) -> tuple[int, int]:
        """A daemon that does not answer has no space now."""
        try:
            reply = await invoke(
                self._transport, address, Storage.SPACE_INFO, pb.SpaceInfoRequest(), timeout_s=CONTROL_ATTEMPT_S / 5
            )
        except ThreefsError:
            return 0, 0
        return sum(disk.capacity_bytes for disk in reply.disks), sum(disk.free_bytes for disk in reply.disks)


def _head(chain: Chain) -> TargetId:
    return serving_of(chain)[0]


def _last_serving(chain: Chain) -> TargetId:
    return serving_of(chain)[-1]
