"""Updates of the storage client: to the head of each chain, again and again under one identity until done.

Used by `client.storage.client`. The one rule: of the changes to one chunk only one is under way, so a retry never
overtakes the change that follows it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from threefs.client.storage import metrics
from threefs.client.storage.batches import Change, split
from threefs.client.storage.channels import RETRY_S_MAX
from threefs.client.storage.routes import (
    RoutingView,
    address_of,
    chain_of,
    gather_bounded,
    refresh_quietly,
    serving_of,
)
from threefs.common.errors import Corrupt, DataError, RoutingError, ThreefsError, TransientError, from_wire
from threefs.common.ids import ChainId, ChunkId
from threefs.common.net.interface import Transport
from threefs.common.net.service import Retry
from threefs.common.routing import Chain
from threefs.common.runtime.interface import Runtime
from threefs.proto import data_plane
from threefs.proto.data_plane import UpdateRequest

ATTEMPT_S = 5.0  # a retry finds its first attempt running at the head and waits for that
IN_FLIGHT = 32  # batches of one call


class WriteRunner:
    """Carries out batches of changes."""

    def __init__(self, runtime: Runtime, transport: Transport, routing: RoutingView) -> None:
        self._runtime = runtime
        self._transport = transport
        self._routing = routing

    async def run(self, changes: Sequence[Change], timeout_s: float) -> None:
        """Ends each change without error, or with the last one once time is over."""
        retry = Retry(self._runtime, min(timeout_s, RETRY_S_MAX), first_s=0.002, most_s=0.5)
        waiting = list(changes)
        while waiting:
            sent = _first_of_each_chunk(waiting)
            await self._attempt(sent, max(min(ATTEMPT_S, retry.left_s), 0.001))
            failed = [change for change in sent if not change.done]
            waiting = [change for change in waiting if not change.done]
            if failed and retry.left_s <= 0:
                _give_up(waiting, failed[0])
                return
            if failed:
                error = failed[0].error
                assert error is not None, "an update is neither done nor failed"
                metrics.RETRIES.labels(kind="write", reason=type(error).__name__).inc(len(failed))
                await retry.pause(TransientError(str(error)))
                await refresh_quietly(self._routing)

    async def _attempt(self, changes: Iterable[Change], timeout_s: float) -> None:
        routing = self._routing.routing
        groups: dict[str, list[tuple[Change, Chain]]] = {}
        for change in changes:
            try:
                chain = chain_of(routing, change.chain)
                groups.setdefault(address_of(routing, serving_of(chain)[0]), []).append((change, chain))
            except ThreefsError as exc:
                change.error = exc
        batches = [
            self._write_batch(address, batch, timeout_s)
            for address, group in groups.items()
            for batch in split(group, _bytes_of)
        ]
        await gather_bounded(batches, IN_FLIGHT)

    async def _write_batch(self, address: str, batch: Sequence[tuple[Change, Chain]], timeout_s: float) -> None:
        """One frame to one head; notes at each change how it ended."""
        body = data_plane.pack_updates([_request(change, chain) for change, chain in batch])
        data = [piece for change, _ in batch for piece in change.pieces]
        metrics.BATCHES.labels(kind="write").inc()
        try:
            reply = await self._transport.call(address, data_plane.WRITE, body, data, timeout_s=timeout_s)
            answers, messages = data_plane.unpack_update_replies(reply.body, len(batch))
        except (ThreefsError, data_plane.Malformed) as exc:
            error = exc if isinstance(exc, ThreefsError) else Corrupt(f"{address}: {exc}")
            for change, _ in batch:
                _note_failure(change, error)
            return
        for (change, _), answer, message in zip(batch, answers, messages, strict=True):
            if answer.status:
                _note_failure(change, from_wire(answer.status, errno.EIO, message))
            else:
                change.error, change.done = None, True


def _request(change: Change, chain: Chain) -> UpdateRequest:
    ticket = change.ticket
    assert ticket is not None, "a change goes out under a ticket"
    return UpdateRequest(
        serving_of(chain)[0],
        0,
        chain.id,
        change.kind,
        0,
        0,
        chain.version,
        change.chunk.pack(),
        0,
        change.offset,
        change.bytes,
        change.chunk_bytes,
        change.crc32c,
        ticket.client,
        ticket.sequence,
        ticket.channel,
    )


def _bytes_of(item: tuple[Change, Chain]) -> int:
    return item[0].bytes if item[0].pieces else 0


def _first_of_each_chunk(changes: Iterable[Change]) -> list[Change]:
    found: dict[tuple[ChainId, ChunkId], Change] = {}
    for change in changes:
        found.setdefault((change.chain, change.chunk), change)
    return list(found.values())


def _note_failure(change: Change, error: ThreefsError) -> None:
    """A change ends with an error that no retry can help."""
    change.error = error
    change.done = not isinstance(error, TransientError | RoutingError | DataError)


def _give_up(waiting: Iterable[Change], failed: Change) -> None:
    """What was never tried fails like what was."""
    for change in waiting:
        change.error = change.error or failed.error
