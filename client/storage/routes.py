"""Small helpers around the map that reads, writes and control calls of the storage client share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from threefs.common.errors import NotServing, ThreefsError
from threefs.common.ids import ChainId, TargetId
from threefs.common.routing import Chain, Routing

T = TypeVar("T")


class RoutingView(Protocol):
    """What the client needs of `client.routing.RoutingClient`."""

    routing: Routing

    async def refresh(self, *, timeout_s: float = 5.0) -> Routing: ...


def chain_of(routing: Routing, chain: ChainId) -> Chain:
    """NotServing if the map does not know the chain (yet)."""
    found = routing.chains.get(chain)
    if found is None:
        raise NotServing(f"chain {chain} is not in the map (version {routing.version})")
    return found


def address_of(routing: Routing, target: TargetId) -> str:
    try:
        return routing.target_address(target)
    except KeyError as exc:
        raise NotServing(f"target {target} has no address in the map (version {routing.version})") from exc


@dataclass(slots=True)
class ReadRoute:
    """Where a chain's chunks may be read, by one version of the map."""

    chain: Chain
    serving: tuple[TargetId, ...]
    addresses: tuple[str, ...]  # of `serving`
    by_address: tuple[int, ...]  # indexes into `serving`, in an order that chains of the same daemons share


class ReadRoutes:
    """Routes of all chains used, found once for each version of the map."""

    def __init__(self) -> None:
        self._routing: Routing | None = None
        self._routes: dict[ChainId, ReadRoute] = {}

    def find(self, routing: Routing, chain_id: ChainId) -> ReadRoute:
        """NotServing if nobody serves the chain."""
        if routing is not self._routing:
            self._routing = routing
            self._routes.clear()
        route = self._routes.get(chain_id)
        if route is None:
            chain = chain_of(routing, chain_id)
            serving = serving_of(chain)
            addresses = tuple(address_of(routing, target) for target in serving)
            order = tuple(sorted(range(len(addresses)), key=addresses.__getitem__))
            route = ReadRoute(chain, serving, addresses, order)
            self._routes[chain_id] = route
        return route


def serving_of(chain: Chain) -> tuple[TargetId, ...]:
    """Targets that answer reads, head first; NotServing with their states if there is none."""
    serving = chain.serving()
    if not serving:
        states = ", ".join(f"{t} {s.name}" for t, s in zip(chain.targets, chain.states, strict=True))
        raise NotServing(f"chain {chain.id} has no serving target now: {states}; see «3fs status»")
    return serving


async def refresh_quietly(routing: RoutingView) -> None:
    """The newest map if mgmtd answers within a second; the one at hand otherwise."""
    try:
        await routing.refresh(timeout_s=1.0)
    except ThreefsError:
        return


async def gather_bounded(work: Sequence[Awaitable[T]], limit: int) -> list[T]:
    """Results in order, at most `limit` under way at a time."""
    if len(work) == 1:
        return [await work[0]]
    gate = asyncio.Semaphore(limit)

    async def one(item: Awaitable[T]) -> T:
        async with gate:
            return await item

    return list(await asyncio.gather(*[one(item) for item in work]))
