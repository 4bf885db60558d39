"""Damaged chunks: found by a read, reported, and rewritten by the head from a healthy replica.

The one rule: a repair is an update like any other (a new version with the same content, through the whole chain),
so it needs no protocol of its own and heals whichever replica is damaged.
"""

from __future__ import annotations

import logging

from threefs.common.errors import ThreefsError
from threefs.common.ids import ChainId, ChunkId, ChunkVersion
from threefs.common.net.interface import Transport
from threefs.common.net.service import invoke
from threefs.common.runtime.interface import Runtime
from threefs.proto import storage_pb2 as pb
from threefs.proto.storage_rpc import Storage
from threefs.storage import metrics
from threefs.storage.locks import Key
from threefs.storage.replica import Place, check_write
from threefs.storage.replication import Replicator
from threefs.storage.targets import LocalTarget, RoutingView, TargetSet

_log = logging.getLogger(__name__)
REPAIR_TIMEOUT_S = 30.0


class Repairer:
    def __init__(
        self,
        runtime: Runtime,
        transport: Transport,
        routing: RoutingView,
        targets: TargetSet,
        replicator: Replicator,
    ) -> None:
        self._runtime = runtime
        self._transport = transport
        self._routing = routing
        self._targets = targets
        self._replicator = replicator
        self._running: dict[Key, None] = {}

    def report(self, target: LocalTarget, place: Place, chunk: ChunkId, version: ChunkVersion) -> None:
        """Bytes of a chunk's committed `version` on this disk are wrong: counted, logged, repaired in background."""
        key = (target.id, chunk)
        if key not in self._running:
            self._running[key] = None
            self._runtime.spawn(self._repair(target, place, chunk, version), name=f"repair {chunk}")

    async def _repair(self, target: LocalTarget, place: Place, chunk: ChunkId, version: ChunkVersion) -> None:
        try:
            (meta,) = await target.engine.query(target.id, [chunk])
            if meta is None or meta.committed != version:
                return  # read before a repair of it ended, reported after
            metrics.DAMAGED.inc()
            _log.error("chunk %s of target %d on disk %d is damaged; asking the head of chain %d to rewrite it",
                       chunk, target.id, target.disk.index, place.chain.id)  # fmt: skip
            head = place.chain.writing()[0]
            if head == target.id:
                await self.rewrite(target, place.chain.id, chunk)
            else:
                request = pb.RepairChunkRequest(
                    at=pb.ChainTarget(target=head, chain=place.chain.id, chain_version=place.version),
                    inode=chunk.inode,
                    number=chunk.number,
                    damaged_target=target.id,
                )
                address = self._routing.routing.target_address(head)
                await invoke(self._transport, address, Storage.REPAIR_CHUNK, request, timeout_s=REPAIR_TIMEOUT_S)
        except (ThreefsError, KeyError) as exc:
            _log.error("chunk %s of target %d stays damaged for now: %s", chunk, target.id, exc)
        finally:
            del self._running[target.id, chunk]

    async def rewrite(self, target: LocalTarget, chain: ChainId, chunk: ChunkId) -> int:
        """The head's part; NotServing if `target` is not the head. Returns the new version, 0 if the chunk is gone."""
        async with self._replicator.locks.hold([(target.id, chunk)]):
            place = self._targets.place(target, chain)
            check_write(place, target.life.phase)
            return await self._replicator.rewrite(target, chain, chunk)
