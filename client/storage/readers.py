"""Reads of the storage client: spread over serving targets, failing over, data straight into the callers' buffers.

Used by `client.storage.client`. The one rule: a buffer is written only by a reply to the attempt that waits for
it, and an element counts as read only when its CRC32C is right.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from threefs.client.storage import metrics
from threefs.client.storage.batches import BATCH_ELEMENTS, Fetch, split
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
from threefs.common.ids import ChainId, TargetId
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
        waiting = await self._begin(ios, min(ATTEMPT_S, timeout_s))
        while waiting and retry.left_s > 0:
            metrics.RETRIES.labels(kind="read", reason=type(waiting[0].io.error).__name__).inc(len(waiting))
            chains = self._routing.routing.chains
            at_once = [_prepare_retry(fetch, chains.get(fetch.io.chain)) for fetch in waiting]
            waiting = [fetch for fetch in waiting if not fetch.done]
            if waiting and not all(at_once):
                await retry.pause(Unreachable("no replica answered"))
                await refresh_quietly(self._routing)
            await self._attempt(waiting, max(min(ATTEMPT_S, retry.left_s), 0.001))
            waiting = [fetch for fetch in waiting if fetch.io.error is not None]

    async def _begin(self, ios: Sequence[ReadIO], timeout_s: float) -> list[Fetch]:
        """The first attempt; those that have to be tried again. Nearly always there are none, so that a small call
        keeps books for each chain and not for each element."""
        groups = self._group(ios) if len(ios) <= BATCH_ELEMENTS else None
        if groups is None:
            fetches = [Fetch(io) for io in ios]
            await self._attempt(fetches, timeout_s)
            return [fetch for fetch in fetches if fetch.io.error is not None]
        self._turn += 1
        await gather_bounded([self._read_group(group, timeout_s) for group in groups], IN_FLIGHT)
        return [Fetch(io, group.targets[io.chain]) for group in groups for io in group.ios if io.error is not None]

    def _group(self, ios: Sequence[ReadIO]) -> Collection[_Group] | None:
        """A small call as one batch for each daemon; None if it is large, or not all of it can be sent."""
        routing, routes = self._routing.routing, self._routes
        groups: dict[str, _Group] = {}
        known: dict[ChainId, tuple[bytes, _Group]] = {}
        for io in ios:
            place = known.get(io.chain)
            if place is None:
                try:
                    route = routes.find(routing, io.chain)
                except ThreefsError:
                    return None
                index = self._nearby(route)
                address = route.addresses[index]
                target = route.serving[index]
                group = groups.setdefault(address, _Group(address))
                group.targets[io.chain] = target
                head = data_plane.pack_read_head(target, io.chain, self._flags, route.chain.version)
                place = known[io.chain] = (head, group)
            head, group = place
            inode, number = io.chunk
            size = len(io.buffer)
            group.bytes += size
            group.requests.append(head + data_plane.pack_read_range(inode, number, io.offset, size))
            group.ios.append(io)
        return groups.values() if sum([group.bytes for group in groups.values()]) <= GATHER_BYTES else None

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

    def _nearby(self, route: ReadRoute) -> int:
        """The replica that a small call goes to: for all chains of the same daemons the same one, in turns."""
        return route.by_address[self._turn % len(route.by_address)]

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
            return self._nearby(route)
        return (fetch.io.chunk.number + self._turn) % count

    async def _read_batch(self, address: str, batch: Sequence[Fetch], timeout_s: float) -> None:
        """One frame there and back; notes at each element how it ended."""
        flags = self._flags
        body = data_plane.pack_reads([_request(fetch, flags) for fetch in batch])
        ios = [fetch.io for fetch in batch]
        await self._exchange(Reception(ios, body, sum(map(_bytes_of, batch)), address), timeout_s)

    async def _read_group(self, group: _Group, timeout_s: float) -> None:
        reception = Reception(group.ios, b"".join(group.requests), group.bytes, group.address)
        await self._exchange(reception, timeout_s)

    async def _exchange(self, reception: Reception, timeout_s: float) -> None:
        metrics.READ_BATCHES.inc()
        try:
            reply = await self._transport.call(
                reception.address, data_plane.READ, reception.body, timeout_s=timeout_s, scatter=reception.scatter
            )
            reception.finish(reply.body)
        except (ThreefsError, data_plane.Malformed) as exc:
            error = exc if isinstance(exc, ThreefsError) else Corrupt(f"{reception.address}: {exc}")
            for io in reception.ios:
                io.error = error


class _Group:
    """The elements of one call that go to one daemon in one frame."""

    __slots__ = ("address", "bytes", "ios", "requests", "targets")

    def __init__(self, address: str) -> None:
        self.address = address
        self.bytes = 0  # asked for
        self.targets: dict[ChainId, TargetId] = {}  # that the elements of each chain are read from
        self.ios: list[ReadIO] = []
        self.requests: list[bytes] = []  # their descriptors


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
