"""Reads of the storage client: spread over serving targets, failing over, data straight into the callers' buffers.

Used by `client.storage.client`. The one rule: a buffer is written only by a reply to the attempt that waits for
it, and an element counts as read only when its CRC32C is right.
"""

from __future__ import annotations

from collections.abc import Sequence

from threefs.client.storage import metrics
from threefs.client.storage.batches import Fetch, split
from threefs.client.storage.reception import Reception
from threefs.client.storage.routes import ReadRoute, ReadRoutes, RoutingView, gather_bounded, refresh_quietly
from threefs.client.storage.types import ReadIO
from threefs.common.errors import (
    Corrupt,
    DataError,
    NotCommitted,
    RoutingError,
    ThreefsError,
    TransientError,
    Unreachable,
)
from threefs.common.net.interface import Transport
from threefs.common.net.service import Retry
from threefs.common.routing import Chain
from threefs.common.runtime.interface import Runtime
from threefs.proto import data_plane

ATTEMPT_S = 3.0
IN_FLIGHT = 32  # batches of one call
GATHER_BYTES = 1 << 20  # a call up to this size goes to as few daemons as possible
DAMAGED_ROUNDS = 3  # times that every replica gave wrong bytes before the reader believes it


class ReadRunner:
    """Carries out calls to `read`."""

    def __init__(self, runtime: Runtime, transport: Transport, routing: RoutingView, *, relaxed: bool) -> None:
        self._runtime = runtime
        self._transport = transport
        self._routing = routing
        self._flags = data_plane.READ_RELAXED if relaxed else 0
        self._routes = ReadRoutes()
        self._turn = runtime.random.randrange(1 << 30)  # else all short-lived clients would read from the same daemon

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
        routing, routes = self._routing.routing, self._routes
        groups: dict[str, list[Fetch]] = {}
        self._turn += 1
        nearby = sum([len(fetch.io.buffer) for fetch in fetches]) <= GATHER_BYTES
        for fetch in fetches:
            try:
                route = fetch.route = routes.find(routing, fetch.io.chain)
            except ThreefsError as exc:
                fetch.io.error = exc
                continue
            index = self._choose(route, fetch, together=nearby)
            fetch.target = route.serving[index]
            groups.setdefault(route.addresses[index], []).append(fetch)
        await gather_bounded(
            [
                self._read_batch(address, batch, timeout_s)
                for address, group in groups.items()
                for batch in split(group, _bytes_of)
            ],
            IN_FLIGHT,
        )

    def _choose(self, route: ReadRoute, fetch: Fetch, *, together: bool) -> int:
        """Which serving replica. They take turns: by call if the whole call is small, so that it goes as few frames;
        by chunk as well if it is large. The tail if a newer version is on its way."""
        count = len(route.serving)
        if fetch.ask_tail:
            return count - 1
        if fetch.failed:
            left = [index for index, target in enumerate(route.serving) if target not in fetch.failed]
            return left[self._turn % len(left)] if left else self._turn % count
        if together:
            return route.by_address[self._turn % count]
        return (fetch.io.chunk.number + self._turn) % count

    async def _read_batch(self, address: str, batch: Sequence[Fetch], timeout_s: float) -> None:
        """One frame there and back; notes at each element how it ended."""
        reception = Reception(batch)
        metrics.BATCHES.labels(kind="read").inc()
        flags = self._flags
        body = data_plane.pack_reads([_request(fetch, flags) for fetch in batch])
        try:
            reply = await self._transport.call(
                address, data_plane.READ, body, timeout_s=timeout_s, scatter=reception.scatter
            )
            if reception.answers is None:  # without data nothing was scattered
                reception.scatter(reply.body, 0)
        except (ThreefsError, data_plane.Malformed) as exc:
            error = exc if isinstance(exc, ThreefsError) else Corrupt(f"{address}: {exc}")
            for fetch in batch:
                fetch.io.error = error
            return
        reception.finish()


def _request(fetch: Fetch, flags: int) -> tuple[object, ...]:
    io, route = fetch.io, fetch.route
    assert route is not None, "a read is sent along a route"
    chunk = io.chunk.pack()
    return (fetch.target, io.chain, flags, route.chain.version, chunk, io.offset, len(io.buffer))


def _bytes_of(fetch: Fetch) -> int:
    return len(fetch.io.buffer)


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
