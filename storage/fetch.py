"""Whole chunks from other replicas of a chain, for repair. Used by the write path while it holds the chunk's lock.

The one rule: only content whose version, length and CRC32C are those that the chain committed counts as healthy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from threefs.common.errors import ChecksumMismatch, ThreefsError
from threefs.common.ids import ChainId, TargetId
from threefs.common.net.interface import Transport
from threefs.common.routing import Chain
from threefs.native.buffers import buffer
from threefs.native.checksum import crc32c
from threefs.proto import data_plane
from threefs.storage.config import StorageConfig
from threefs.storage.engine import ChunkMeta, ReadOp
from threefs.storage.targets import LocalTarget, RoutingView

_log = logging.getLogger(__name__)


class Fetcher:
    def __init__(self, transport: Transport, routing: RoutingView, config: Callable[[], StorageConfig]) -> None:
        self._transport = transport
        self._routing = routing
        self._config = config

    async def fetch(self, target: LocalTarget, chain_id: ChainId, meta: ChunkMeta) -> memoryview:
        """The committed content that `meta` describes, from here or any serving replica; ChecksumMismatch if none
        has it intact."""
        content = buffer(meta.length)
        (found,) = await target.engine.read([ReadOp(target.id, meta.chunk, 0, content)])
        if found.error is None and _is_it(meta, found.committed, content[: found.length]):
            return content
        chain = self._routing.routing.chains[chain_id]
        for other in chain.serving():
            if other == target.id:
                continue
            try:
                version, content = await self._fetch_from(other, chain, meta)
            except (ThreefsError, data_plane.Malformed, KeyError) as exc:
                _log.warning("target %d cannot give chunk %s for repair: %s", other, meta.chunk, exc)
                continue
            if _is_it(meta, version, content):
                return content
        raise ChecksumMismatch(f"chunk {meta.chunk} of chain {chain_id}: no serving replica has it intact")

    async def _fetch_from(self, other: TargetId, chain: Chain, meta: ChunkMeta) -> tuple[int, memoryview]:
        flags = data_plane.READ_RELAXED  # the caller holds the head's lock: nothing can be on its way
        request = data_plane.ReadRequest(other, chain.id, flags, chain.version, meta.chunk.pack(), 0, meta.length)
        address = self._routing.routing.target_address(other)
        body = data_plane.pack_reads([request])
        reply = await self._transport.call(address, data_plane.READ, body, timeout_s=self._config().attempt_timeout_s)
        content = memoryview(b"".join(reply.data))
        answers, messages = data_plane.unpack_read_replies(reply.body, 1, len(content))
        (answer,) = data_plane.read_replies(answers)
        if answer.status:
            raise ChecksumMismatch(f"status {answer.status}: {' '.join(messages)}")
        return answer.version, content


def _is_it(meta: ChunkMeta, version: int, content: memoryview) -> bool:
    return (version, len(content), crc32c(content)) == (meta.committed, meta.length, meta.crc32c)
