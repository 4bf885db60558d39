"""The in-process carrier: a call is a call. For tests, and for tools that embed a service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from threefs.common.errors import Timeout, Unreachable, from_wire, to_wire
from threefs.common.net.interface import Buffer, Carrier, Handler, Reply, Request, Scatter, Server, Transport


class Loopback(Transport):
    """Addresses are names that servers of the same object registered."""

    def __init__(self) -> None:
        self.servers: dict[str, Mapping[int, Handler]] = {}

    async def call(
        self,
        address: str,
        method: int,
        body: bytes,
        data: Sequence[Buffer] = (),
        *,
        timeout_s: float,
        scatter: Scatter | None = None,
    ) -> Reply:
        handlers = self.servers.get(address)
        if handlers is None or method not in handlers:
            raise Unreachable(f"nothing serves method {method:#06x} at {address}")
        request = Request(method, body, memoryview(b"".join(data)), "loopback", timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await handlers[method](request)
        except TimeoutError as exc:
            raise Timeout(f"{address} did not answer method {method:#06x} within {timeout_s:g} s") from exc
        except Exception as exc:
            raise from_wire(*to_wire(exc)) from exc
        return deliver(reply, scatter)

    async def close(self) -> None:
        pass


def deliver(reply: Reply, scatter: Scatter | None) -> Reply:
    """Copies a reply's data as a wire would: into the caller's views, or into one fresh buffer."""
    joined = memoryview(b"".join(reply.data))
    if scatter is None:
        return Reply(reply.body, (joined,) if joined else ())
    start = 0
    for view in scatter(reply.body, len(joined)):
        view[:] = joined[start : start + len(view)]
        start += len(view)
    assert start == len(joined), f"scatter took {start} of {len(joined)} bytes"
    return Reply(reply.body)


class LoopbackServer(Server):
    """Registers handlers under a name for as long as it is started."""

    def __init__(self, loopback: Loopback, address: str, handlers: Mapping[int, Handler]) -> None:
        self._loopback = loopback
        self._handlers = handlers
        self.address = address

    async def start(self) -> None:
        self._loopback.servers[self.address] = self._handlers

    async def close(self) -> None:
        self._loopback.servers.pop(self.address, None)


class LoopbackCarrier(Carrier):
    """All servers and transports that come from one carrier see one another."""

    def __init__(self) -> None:
        self._loopback = Loopback()

    def transport(self) -> Transport:
        return self._loopback

    def server(self, listen: str, handlers: Mapping[int, Handler]) -> Server:
        return LoopbackServer(self._loopback, listen, handlers)
