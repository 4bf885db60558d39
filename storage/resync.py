"""Fills returning targets: the last serving target of a chain compares chunks with its SYNCING successor.

Page by page both sides list what they have; each chunk that differs is sent as a whole, or removed, while its lock
is held here. Updates that arrive meanwhile are forwarded as whole chunks by the write path. The one rule: the
local list is taken after this daemon knows the chain version under which the successor syncs; an update that
was staged before is in the list, one staged later is forwarded, so none is missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from threefs.common.errors import ChecksumMismatch, StaleRouting, ThreefsError, Timeout
from threefs.common.ids import ChainId, ChainVersion, ChunkId, ChunkVersion
from threefs.common.net.interface import Transport
from threefs.common.net.service import invoke
from threefs.common.runtime.interface import Runtime
from threefs.native.buffers import buffer
from threefs.proto import storage_pb2 as pb
from threefs.proto.data_plane import UpdateRequest
from threefs.proto.storage_rpc import Storage
from threefs.storage import metrics
from threefs.storage.config import StorageConfig
from threefs.storage.engine import ChunkMeta, ReadOp, UpdateKind
from threefs.storage.forwarding import Forwarder
from threefs.storage.records import chunk_from_proto
from threefs.storage.repair import Repairer
from threefs.storage.replica import Place, SyncAction, compare
from threefs.storage.replication import Replicator
from threefs.storage.state import Phase
from threefs.storage.targets import FIRST_CHUNK, PAGE, PAST_LAST_CHUNK, LocalTarget, RoutingView, TargetSet, after
from threefs.storage.update import Op

_log = logging.getLogger(__name__)

Remote = dict[ChunkId, ChunkMeta]


class Resyncer:
    """Drives every resync whose predecessor is on this daemon; one at a time for each chain."""

    def __init__(
        self,
        runtime: Runtime,
        transport: Transport,
        routing: RoutingView,
        targets: TargetSet,
        replicator: Replicator,
        forwarder: Forwarder,
        repairer: Repairer,
        config: Callable[[], StorageConfig],
    ) -> None:
        self._runtime = runtime
        self._transport = transport
        self._routing = routing
        self._targets = targets
        self._replicator = replicator
        self._forwarder = forwarder
        self._repairer = repairer
        self._config = config
        self._done: dict[ChainId, ChainVersion] = {}
        self._running: dict[ChainId, None] = {}

    async def run(self) -> None:
        """Looks for targets to fill, for as long as the daemon lives."""
        while True:
            self.scan()
            await self._runtime.sleep(self._runtime.jitter(self._config().sync_retry_s))

    def scan(self) -> None:
        """Starts what has to be started; called when the map changes, too."""
        for target, place in self._targets.places():
            chain = place.chain.id
            ready = place.feeds_syncing and target.life.phase is Phase.UPTODATE
            if ready and chain not in self._running and self._done.get(chain) != place.version:
                self._running[chain] = None
                self._runtime.spawn(self._fill(target, place), name=f"sync chain {chain}")

    async def _fill(self, target: LocalTarget, place: Place) -> None:
        try:
            _log.info("chain %d: filling target %s from %d", place.chain.id, place.successor, target.id)
            await self._fill_pages(target, place)
            await self._finish(target, place)
            self._done[place.chain.id] = place.version
            metrics.SYNCS_DONE.inc()
        except (ThreefsError, KeyError) as exc:
            _log.warning("chain %d: filling target %s has to start again: %s", place.chain.id, place.successor, exc)
            await self._runtime.sleep(self._runtime.jitter(self._config().sync_retry_s))
        finally:
            del self._running[place.chain.id]

    async def _fill_pages(self, target: LocalTarget, place: Place) -> None:
        begin, more = FIRST_CHUNK, True
        while more:
            remote, more = await self._list_remote(place, begin)
            end = after(max(remote)) if more else PAST_LAST_CHUNK
            chunks = sorted({*remote, *await self._list_local(target, begin, end)})
            for group in _groups(chunks, self._config().sync_batch_chunks):
                await self._fill_group(target, place, group, remote)
            begin = end

    async def _list_remote(self, place: Place, begin: ChunkId) -> tuple[Remote, bool]:
        request = pb.SyncStartRequest(
            at=_at(place), inode_begin=begin.inode, number_begin=begin.number, limit=PAGE
        )  # fmt: skip
        timeout_s = self._config().attempt_timeout_s
        reply = await invoke(self._transport, self._address(place), Storage.SYNC_START, request, timeout_s=timeout_s)
        metas = [chunk_from_proto(record) for record in reply.chunks]
        return {meta.chunk: meta for meta in metas}, reply.more

    async def _list_local(self, target: LocalTarget, begin: ChunkId, end: ChunkId) -> list[ChunkId]:
        found: list[ChunkId] = []
        while True:
            page = await target.engine.list(target.id, begin, end, limit=PAGE)
            found += [meta.chunk for meta in page]
            if len(page) < PAGE:
                return found
            begin = after(page[-1].chunk)

    def _address(self, place: Place) -> str:
        assert place.successor is not None
        return self._routing.routing.target_address(place.successor)

    async def _fill_group(self, target: LocalTarget, place: Place, chunks: Sequence[ChunkId], remote: Remote) -> None:
        """Brings a few chunks of the successor to what is committed here; raises if it cannot."""
        async with self._replicator.locks.hold((target.id, chunk) for chunk in chunks):
            if self._targets.place(target, place.chain.id) != place or target.life.phase is not Phase.UPTODATE:
                raise StaleRouting(f"chain {place.chain.id} left version {place.version}")
            send: list[ChunkMeta] = []
            remove: list[ChunkMeta] = []
            for chunk, found in zip(chunks, await target.engine.query(target.id, chunks), strict=True):
                meta = found
                if meta is not None and meta.pending:
                    meta = await self._replicator.roll_forward(target, place.chain.id, meta)
                action = compare(meta, remote.get(chunk))
                if action is SyncAction.SEND and meta is not None:
                    send.append(meta)
                elif action is SyncAction.REMOVE:
                    remove.append(remote[chunk])
                else:
                    metrics.SYNC_SKIPPED.inc()
            for batch in _by_bytes(send, self._config().sync_batch_bytes):
                await self._send(target, place, batch)
            if remove:
                await self._remove(target, place, remove)

    async def _send(self, target: LocalTarget, place: Place, metas: Sequence[ChunkMeta]) -> None:
        data = [buffer(meta.length) for meta in metas]
        reads = [ReadOp(target.id, meta.chunk, 0, view) for meta, view in zip(metas, data, strict=True)]
        for meta, result in zip(metas, await target.engine.read(reads), strict=True):
            if isinstance(result.error, ChecksumMismatch):
                self._repairer.report(target, place, meta.chunk, result.committed)
            if result.error is not None:
                raise result.error
        await self._deliver(target, place, metas, data, UpdateKind.REPLACE)
        metrics.SYNC_SENT.inc(len(metas))
        if self._config().sync_bytes_per_s:
            await self._runtime.sleep(sum(map(len, data)) / self._config().sync_bytes_per_s)

    async def _remove(self, target: LocalTarget, place: Place, metas: Sequence[ChunkMeta]) -> None:
        await self._deliver(target, place, metas, [memoryview(b"")] * len(metas), UpdateKind.REMOVE)
        metrics.SYNC_REMOVED.inc(len(metas))

    async def _deliver(
        self,
        target: LocalTarget,
        place: Place,
        metas: Sequence[ChunkMeta],
        data: Sequence[memoryview],
        kind: UpdateKind,
    ) -> None:
        ops: list[Op] = []
        requests: list[UpdateRequest] = []
        try:
            for meta, content in zip(metas, data, strict=True):
                op = self._replicator.own_op(target, place.chain.id, meta, kind)
                ops.append(op)
                op.version, op.length, op.crc, op.whole = meta.committed, meta.length, meta.crc32c, True
                if kind is UpdateKind.REMOVE:
                    op.version = ChunkVersion(meta.committed + 1)
                else:
                    op.maker = meta.ticket
                requests.append(op.to_request(place, content if kind is UpdateKind.REPLACE else None))
            await self._forwarder.deliver(self._address(place), ops, requests, data)
        finally:
            for op in ops:
                self._replicator.tickets.give_back(op.ticket)
        for op in ops:
            if not op.tail_version:
                raise op.error or Timeout(f"chunk {op.chunk} did not reach target {place.successor}")

    async def _finish(self, target: LocalTarget, place: Place) -> None:
        channels = [
            pb.ChannelRecord(
                client=ticket.client,
                channel=ticket.channel,
                sequence=ticket.sequence,
                version=outcome.version,
                chain_version=outcome.chain_version,
                length=outcome.length,
                crc32c=outcome.crc32c,
            )
            for ticket, outcome in target.channels.export()
        ]
        request = pb.SyncDoneRequest(at=_at(place), channels=channels)
        timeout_s = self._config().attempt_timeout_s
        await invoke(self._transport, self._address(place), Storage.SYNC_DONE, request, timeout_s=timeout_s)
        _log.info("chain %d: target %s is filled", place.chain.id, place.successor)


def _at(place: Place) -> pb.ChainTarget:
    return pb.ChainTarget(target=place.successor or 0, chain=place.chain.id, chain_version=place.version)


def _groups(chunks: Sequence[ChunkId], size: int) -> Iterator[Sequence[ChunkId]]:
    return (chunks[start : start + size] for start in range(0, len(chunks), size))


def _by_bytes(metas: Iterable[ChunkMeta], limit: int) -> Iterator[list[ChunkMeta]]:
    """Batches whose content sums to `limit` bytes at most, or that are one chunk."""
    batch: list[ChunkMeta] = []
    total = 0
    for meta in metas:
        if batch and total + meta.length > limit:
            yield batch
            batch, total = [], 0
        batch.append(meta)
        total += meta.length
    if batch:
        yield batch
