"""Reads of the storage client: spread over serving targets, failing over, data straight into the callers' buffers.

Used by `client.storage.client`. The one rule: a buffer is written only by a reply to the attempt that waits for
it, and an element counts as read only when its CRC32C is right.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from threefs.client.storage import metrics
from threefs.client.storage.batches import Fetch, split
from threefs.client.storage.routes import (
    RoutingView,
    address_of,
    chain_of,
    gather_bounded,
    refresh_quietly,
    serving_of,
)
from threefs.client.storage.types import ReadIO
from threefs.common.errors import (
    ChecksumMismatch,
    Corrupt,
    DataError,
    NotCommitted,
    RoutingError,
    ThreefsError,
    TransientError,
    Unreachable,
    from_wire,
)
from threefs.common.ids import TargetId
from threefs.common.net.interface import Transport
from threefs.common.net.service import Retry
from threefs.common.routing import Chain
from threefs.common.runtime.interface import Runtime
from threefs.native.checksum import crc32c
from threefs.proto import data_plane
from threefs.proto.data_plane import ReadReply, ReadRequest

ATTEMPT_S = 3.0
IN_FLIGHT = 32  # batches of one call
DAMAGED_ROUNDS = 3  # times that every replica gave wrong bytes before the reader believes it


class ReadRunner:
    """Carries out calls to `read`."""

    def __init__(self, runtime: Runtime, transport: Transport, routing: RoutingView, *, relaxed: bool) -> None:
        self._runtime = runtime
        self._transport = transport
        self._routing = routing
        self._flags = data_plane.READ_RELAXED if relaxed else 0
        self._turn = 0

    async def run(self, ios: Sequence[ReadIO], timeout_s: float) -> None:
        """Ends each element with its length, or with the last error once time is over."""
        retry = Retry(self._runtime, timeout_s, first_s=0.002, most_s=0.5)
        waiting = [Fetch(io) for io in ios]
        while waiting:
            await self._attempt(waiting, max(min(ATTEMPT_S, retry.left_s), 0.001))
            waiting = [fetch for fetch in waiting if not fetch.done]
            if not waiting or retry.left_s <= 0:
                return
            metrics.RETRIES.labels(kind="read", reason=type(waiting[0].io.error).__name__).inc(len(waiting))
            chains = self._routing.routing.chains
            at_once = [_prepare_retry(fetch, chains.get(fetch.io.chain)) for fetch in waiting]
            waiting = [fetch for fetch in waiting if not fetch.done]
            if waiting and not all(at_once):
                await retry.pause(Unreachable("no replica answered"))
                await refresh_quietly(self._routing)

    async def _attempt(self, fetches: Sequence[Fetch], timeout_s: float) -> None:
        """Sends each element to one replica."""
        routing = self._routing.routing
        groups: dict[str, list[tuple[Fetch, Chain]]] = {}
        self._turn += 1
        for fetch in fetches:
            try:
                chain = chain_of(routing, fetch.io.chain)
                fetch.target = self._choose(chain, fetch)
                groups.setdefault(address_of(routing, fetch.target), []).append((fetch, chain))
            except ThreefsError as exc:
                fetch.io.error = exc
        batches = [
            self._read_batch(address, batch, timeout_s)
            for address, group in groups.items()
            for batch in split(group, _bytes_of)
        ]
        await gather_bounded(batches, IN_FLIGHT)

    def _choose(self, chain: Chain, fetch: Fetch) -> TargetId:
        """Replicas take turns by chunk and by call, so that load spreads; the tail if a newer version is on its way."""
        serving = serving_of(chain)
        if fetch.ask_tail:
            return serving[-1]
        candidates = [target for target in serving if target not in fetch.failed] or list(serving)
        return candidates[(fetch.io.chunk.number + self._turn) % len(candidates)]

    async def _read_batch(self, address: str, batch: Sequence[tuple[Fetch, Chain]], timeout_s: float) -> None:
        """One frame there and back; notes at each element how it ended."""
        answers: list[tuple[list[ReadReply], list[str]]] = []

        def scatter(body: bytes, data_bytes: int) -> list[memoryview]:
            replies, messages = data_plane.unpack_read_replies(body, len(batch), data_bytes)
            views: list[memoryview] = []
            for (fetch, _), reply in zip(batch, replies, strict=True):
                buffer = fetch.io.buffer
                if reply.bytes > len(buffer):
                    raise data_plane.Malformed(f"{reply.bytes} bytes came for a buffer of {len(buffer)}")
                if reply.bytes:
                    views.append(buffer if reply.bytes == len(buffer) else buffer[: reply.bytes])
            answers[:] = [(replies, messages)]
            return views

        metrics.BATCHES.labels(kind="read").inc()
        try:
            body = data_plane.pack_reads([self._request(fetch, chain) for fetch, chain in batch])
            reply = await self._transport.call(address, data_plane.READ, body, timeout_s=timeout_s, scatter=scatter)
            if not answers:  # without data nothing was scattered
                scatter(reply.body, 0)
        except (ThreefsError, data_plane.Malformed) as exc:
            error = exc if isinstance(exc, ThreefsError) else Corrupt(f"{address}: {exc}")
            for fetch, _ in batch:
                fetch.io.error = error
            return
        for (fetch, _), answer, message in zip(batch, *answers[0], strict=True):
            _take_answer(fetch, answer, message)

    def _request(self, fetch: Fetch, chain: Chain) -> ReadRequest:
        io = fetch.io
        return ReadRequest(
            fetch.target, chain.id, self._flags, chain.version, io.chunk.pack(), io.offset, len(io.buffer)
        )


def _bytes_of(item: tuple[Fetch, Chain]) -> int:
    return len(item[0].io.buffer)


def _take_answer(fetch: Fetch, answer: ReadReply, message: str) -> None:
    io = fetch.io
    if answer.status:
        io.error = from_wire(answer.status, errno.EIO, message)
        return
    view = io.buffer if answer.bytes == len(io.buffer) else io.buffer[: answer.bytes]
    if crc32c(view) != answer.crc32c:
        metrics.CHECKSUM_MISMATCHES.inc()
        io.error = ChecksumMismatch(f"chunk {io.chunk} from target {fetch.target}: the data is not what was sent")
        return
    io.length, io.error, fetch.done = answer.bytes, None, True


def _prepare_retry(fetch: Fetch, chain: Chain | None) -> bool:
    """Where a failed element goes next. True: at once; False: after a pause, by a newer map."""
    error = fetch.io.error
    assert error is not None, "a read is neither done nor failed"
    if isinstance(error, NotCommitted):
        first, fetch.ask_tail = not fetch.ask_tail, True
        return first
    fetch.ask_tail = False
    if isinstance(error, RoutingError):
        return False
    if not isinstance(error, TransientError | DataError):
        fetch.done = True
        return True
    fetch.failed += (fetch.target,)
    if chain is not None and set(chain.serving()) - set(fetch.failed):
        return True
    fetch.failed = ()
    fetch.rounds += 1
    fetch.done = isinstance(error, DataError) and fetch.rounds >= DAMAGED_ROUNDS
    return False
