"""The control calls of a storage daemon: lengths, removal, inspection, targets, both ends of a resync.

Bound to the carrier by the server. The one rule: what concerns a chain's data passes the same checks of chain
version and state as the data plane; what is for operators names a target and looks at this replica alone.
"""

from __future__ import annotations

from collections.abc import Callable

from threefs.client.storage.channels import Ticket
from threefs.common.errors import BadRequest, Conflict, NotCommitted, NotServing
from threefs.common.ids import ChainId, ChainVersion, ChunkId, ChunkVersion, ClientId, InodeId, TargetId
from threefs.common.net.interface import Request
from threefs.common.routing import PublicState
from threefs.common.runtime.interface import Runtime
from threefs.native.buffers import buffer
from threefs.proto import storage_pb2 as pb
from threefs.proto.data_plane import CHUNK_BYTES_MAX
from threefs.storage.channels import ChunkChanged
from threefs.storage.data_service import refresh_quietly
from threefs.storage.engine import ChunkMeta, DiskFailed, Finished, Outcome, ReadOp, UpdateKind
from threefs.storage.records import chunk_to_proto, ticket_from_proto, ticket_to_proto
from threefs.storage.repair import Repairer
from threefs.storage.replica import Place, check_serving, check_version, check_write
from threefs.storage.replication import Replicator
from threefs.storage.state import Phase
from threefs.storage.targets import PAST_LAST_CHUNK, LocalTarget, RoutingView, TargetSet, after
from threefs.storage.update import Op

PAGE_MAX = 4096
REMOVE_MAX = 1024


class StorageService:
    """Serves `threefs.proto.storage_rpc.Storage`."""

    def __init__(
        self,
        runtime: Runtime,
        routing: RoutingView,
        targets: TargetSet,
        replicator: Replicator,
        repairer: Repairer,
        *,
        is_fenced: Callable[[], bool],
    ) -> None:
        self._is_fenced = is_fenced
        self._runtime = runtime
        self._routing = routing
        self._targets = targets
        self._replicator = replicator
        self._repairer = repairer

    async def _locate(self, at: pb.ChainTarget) -> tuple[LocalTarget, Place]:
        """Target and place, if the caller's chain version is the one here."""
        chain = self._routing.routing.chains.get(ChainId(at.chain))
        if chain is None or chain.version < at.chain_version:
            await refresh_quietly(self._routing)
            self._targets.follow()
        target = self._targets.find(at.target)
        place = self._targets.place(target, at.chain)
        check_version(place, at.chain_version)
        return target, place

    def _check_fence(self) -> None:
        """Called after the engine has answered: the chain may have gone on without this daemon meanwhile."""
        if self._is_fenced():
            raise NotServing("this daemon cannot reach mgmtd: it says nothing about the chain's chunks")

    # --- chunks of a chain ---------------------------------------------------------------------------------------

    async def query_last_chunk(self, message: pb.QueryLastChunkRequest, request: Request) -> pb.QueryLastChunkReply:
        target, place = await self._locate(message.at)
        check_serving(place, target.life.phase)
        if place.chain.serving()[-1] != target.id:
            raise NotServing(f"target {target.id} is not the last serving one of chain {place.chain.id}: ask that")
        decides = target.decides(place)
        end = ChunkId(InodeId(message.inode + 1), 0)
        begin = ChunkId(InodeId(message.inode), 0)
        reply = pb.QueryLastChunkReply(index=-1)
        while True:
            page = await target.engine.list(target.id, begin, end, limit=PAGE_MAX)
            for meta in page:
                if meta.pending and not decides:
                    raise NotCommitted(f"chunk {meta.chunk}: version {meta.pending} is on its way")
                if meta.committed:
                    reply.index, reply.length = meta.chunk.number, meta.length
                    reply.chunk_count += 1
            if len(page) < PAGE_MAX:
                self._check_fence()
                return reply
            begin = after(page[-1].chunk)

    async def find_chunks(self, message: pb.FindChunksRequest, request: Request) -> pb.FindChunksReply:
        target, place = await self._locate(message.at)
        check_write(place, target.life.phase)
        inode = InodeId(message.inode)
        if message.last > 1 << 32 or message.limit < 1:
            raise BadRequest(f"chunks {message.first} to {message.last}, {message.limit} at most: out of range")
        end = ChunkId(InodeId(inode + 1), 0) if message.last == 1 << 32 else ChunkId(inode, message.last)
        limit = min(message.limit, REMOVE_MAX)
        page = await target.engine.list(target.id, ChunkId(inode, message.first), end, limit=limit)
        self._check_fence()
        tickets = [meta.pending_ticket if meta.pending else meta.ticket for meta in page]
        return pb.FindChunksReply(
            chunks=[
                pb.SeenChunk(number=meta.chunk.number, ticket=ticket_to_proto(ticket))
                for meta, ticket in zip(page, tickets, strict=True)
            ]
        )

    async def remove_chunks(self, message: pb.RemoveChunksRequest, request: Request) -> pb.RemoveChunksReply:
        target, place = await self._locate(message.at)
        check_write(place, target.life.phase)
        if len(message.chunks) > REMOVE_MAX:
            raise BadRequest(f"{len(message.chunks)} chunks at once, at most {REMOVE_MAX}")
        ops = [self._own_removal(target, place, InodeId(message.inode), seen) for seen in message.chunks]
        try:
            await self._replicator.carry_out(ops, from_client=True)
        finally:
            for op in ops:
                self._replicator.tickets.give_back(op.ticket)
        for op in ops:
            if op.error is not None and not isinstance(op.error, ChunkChanged):
                raise op.error
        return pb.RemoveChunksReply(removed=sum(op.error is None for op in ops))

    def _own_removal(self, target: LocalTarget, place: Place, inode: InodeId, seen: pb.SeenChunk) -> Op:
        """Under this daemon's ticket: a retry of the request finds the chunk gone, or made by another update."""
        chunk, ticket = ChunkId(inode, seen.number), self._replicator.tickets.take()
        op = Op(target, place.chain.id, chunk, UpdateKind.REMOVE, ticket, 0, own=True)
        op.seen_version, op.expected = place.version, ticket_from_proto(seen.ticket)
        return op

    async def truncate_chunk(self, message: pb.TruncateChunkRequest, request: Request) -> pb.TruncateChunkReply:
        target, place = await self._locate(message.at)
        if not message.length <= message.chunk_bytes <= CHUNK_BYTES_MAX:
            raise BadRequest(f"length {message.length} is out of range for a chunk of {message.chunk_bytes}")
        chunk = ChunkId(InodeId(message.inode), message.chunk.number)
        ticket = ticket_from_proto(message.ticket)
        op = Op(target, place.chain.id, chunk, UpdateKind.TRUNCATE, ticket, message.chunk_bytes, bytes=message.length)
        op.seen_version, op.expected = place.version, ticket_from_proto(message.chunk.ticket)
        await self._replicator.carry_out([op], from_client=True)
        if op.error is not None and not isinstance(op.error, ChunkChanged):
            raise op.error
        return pb.TruncateChunkReply(changed=op.error is not None)

    async def repair_chunk(self, message: pb.RepairChunkRequest, request: Request) -> pb.RepairChunkReply:
        target, place = await self._locate(message.at)
        chunk = ChunkId(InodeId(message.inode), message.number)
        return pb.RepairChunkReply(version=await self._repairer.rewrite(target, place.chain.id, chunk))

    # --- one replica, for operators ------------------------------------------------------------------------------

    async def list_chunks(self, message: pb.ListChunksRequest, request: Request) -> pb.ListChunksReply:
        target = self._targets.find(message.target)
        begin = ChunkId(InodeId(message.inode_begin), message.number_begin)
        end = ChunkId(InodeId(message.inode_end), 0) if message.inode_end else PAST_LAST_CHUNK
        page, more = await _page(target, begin, end, message.limit)
        return pb.ListChunksReply(chunks=[chunk_to_proto(meta) for meta in page], more=more)

    async def query_chunk(self, message: pb.QueryChunkRequest, request: Request) -> pb.QueryChunkReply:
        target = self._targets.find(message.target)
        chunk = ChunkId(InodeId(message.inode), message.number)
        (meta,) = await target.engine.query(target.id, [chunk])
        return pb.QueryChunkReply(chunk=chunk_to_proto(meta) if meta else None)

    async def verify_chunk(self, message: pb.VerifyChunkRequest, request: Request) -> pb.VerifyChunkReply:
        target = self._targets.find(message.target)
        chunk = ChunkId(InodeId(message.inode), message.number)
        (meta,) = await target.engine.query(target.id, [chunk])
        if meta is None:
            return pb.VerifyChunkReply(problem="no such chunk")
        (found,) = await target.engine.read([ReadOp(target.id, chunk, 0, buffer(meta.length))])
        problem = str(found.error) if found.error else ""
        if not problem and (found.length, found.crc32c) != (meta.length, meta.crc32c):
            problem = f"{found.length} bytes with CRC32C {found.crc32c:#010x}, the record says {meta.crc32c:#010x}"
        return pb.VerifyChunkReply(chunk=chunk_to_proto(meta), intact=not problem, problem=problem)

    # --- disks and targets ---------------------------------------------------------------------------------------

    async def space_info(self, message: pb.SpaceInfoRequest, request: Request) -> pb.SpaceInfoReply:
        reply = pb.SpaceInfoReply()
        for disk in self._targets.disks:
            found = reply.disks.add(disk_index=disk.index, failed=bool(disk.problem), problem=disk.problem)
            if disk.problem:
                continue
            try:
                space = disk.space = await disk.engine.space()
            except DiskFailed as exc:
                self._targets.fail_disk(disk, exc)
                found.failed, found.problem = True, str(exc)
                continue
            found.capacity_bytes, found.free_bytes = space.capacity_bytes, space.free_bytes
            found.used_bytes, found.chunk_count = space.used_bytes, space.chunk_count
        return reply

    async def list_targets(self, message: pb.ListTargetsRequest, request: Request) -> pb.ListTargetsReply:
        return pb.ListTargetsReply(
            targets=[
                pb.LocalTarget(
                    target=target.id,
                    disk_index=target.disk.index,
                    local=target.life.local,
                    chain_version=target.life.chain_version,
                )
                for target in self._targets
            ]
        )

    async def create_target(self, message: pb.CreateTargetRequest, request: Request) -> pb.CreateTargetReply:
        """Conflict if the chain counts on what the target had: an empty one in its place would lose it."""
        await refresh_quietly(self._routing)
        known = self._routing.routing.targets.get(TargetId(message.target))
        if known is not None and known.chain and known.id not in {target.id for target in self._targets}:
            if known.public is PublicState.LASTSRV:
                raise Conflict(
                    f"target {known.id} was the last that served chain {known.chain}: bring its disk back, or give up "
                    f"what only it had: 3fs chain rotate-lastsrv {known.chain}"
                )
            if known.public is PublicState.SERVING:
                raise Conflict(
                    f"target {known.id} of chain {known.chain} still counts as serving: try again in seconds"
                )
        await self._targets.create(TargetId(message.target), message.disk_index)
        return pb.CreateTargetReply()

    async def offline_target(self, message: pb.OfflineTargetRequest, request: Request) -> pb.OfflineTargetReply:
        await refresh_quietly(self._routing)
        target = self._targets.find(message.target)
        routing = self._routing.routing
        known = routing.targets.get(target.id)
        chain = routing.chains.get(known.chain) if known else None
        if chain is not None and chain.serving() == (target.id,) and not message.force:
            raise Conflict(
                f"target {target.id} is the last that serves chain {chain.id}; force it to lose that service"
            )
        self._targets.fail_target(target, "taken offline by an administrator")
        return pb.OfflineTargetReply()

    async def remove_target(self, message: pb.RemoveTargetRequest, request: Request) -> pb.RemoveTargetReply:
        await refresh_quietly(self._routing)
        target = self._targets.find(message.target)
        known = self._routing.routing.targets.get(target.id)
        chain = self._routing.routing.chains.get(known.chain) if known else None
        if chain is not None and chain.state_of(target.id) is not None:
            raise Conflict(f"target {target.id} belongs to chain {chain.id}; take it out of that first")
        await self._targets.remove(target)
        return pb.RemoveTargetReply()

    # --- being filled --------------------------------------------------------------------------------------------

    async def sync_start(self, message: pb.SyncStartRequest, request: Request) -> pb.SyncStartReply:
        target, place = await self._locate(message.at)
        if place.state is not PublicState.SYNCING or target.life.phase not in (Phase.ONLINE, Phase.UPTODATE):
            raise NotServing(f"target {target.id} is {place.state.name} and {target.life.phase.name}: not to be filled")
        begin = ChunkId(InodeId(message.inode_begin), message.number_begin)
        page, more = await _page(target, begin, PAST_LAST_CHUNK, message.limit)
        return pb.SyncStartReply(chunks=[chunk_to_proto(meta) for meta in page], more=more)

    async def sync_done(self, message: pb.SyncDoneRequest, request: Request) -> pb.SyncDoneReply:
        target, place = await self._locate(message.at)
        finished = [_finished(record, self._runtime.wall_us()) for record in message.channels]
        await target.engine.remember(target.id, finished)
        for item in finished:
            target.channels.absorb(item.ticket, item.outcome)
        self._targets.synced(target, place.version)
        return pb.SyncDoneReply()


def _finished(record: pb.ChannelRecord, now_us: int) -> Finished:
    outcome = Outcome(ChunkVersion(record.version), ChainVersion(record.chain_version), record.length, record.crc32c)
    return Finished(Ticket(ClientId(record.client), record.channel, record.sequence), outcome, now_us)


async def _page(target: LocalTarget, begin: ChunkId, end: ChunkId, limit: int) -> tuple[list[ChunkMeta], bool]:
    size = min(limit or PAGE_MAX, PAGE_MAX)
    page = list(await target.engine.list(target.id, begin, end, limit=size))
    return page, len(page) == size
