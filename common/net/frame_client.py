"""The calling side of frames over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

from threefs.common.errors import Refused, ThreefsError, Timeout, Unreachable, from_wire
from threefs.common.net.frame import FrameDamaged, Header, Kind, unpack_error
from threefs.common.net.frames import FrameProtocol
from threefs.common.net.interface import Buffer, Reply, Scatter, Transport
from threefs.common.net.limits import TimeLimits
from threefs.native.buffers import buffer

CONNECT_TIMEOUT_S = 2.0


class _Call:
    """One request in flight."""

    __slots__ = ("future", "scatter")

    def __init__(self, future: asyncio.Future[Reply], scatter: Scatter | None) -> None:
        self.future = future
        self.scatter = scatter

    def expire(self) -> None:
        """Its time is over."""
        if not self.future.done():
            self.future.set_exception(TimeoutError())


class _Connection(FrameProtocol):
    """One connection to a server: matches replies to calls by request id."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, _Call] = {}
        self._ids = itertools.count(1)
        self._limits = TimeLimits()
        self._receiving = 0  # request id whose data is arriving

    def place(self, header: Header, body: bytes) -> Sequence[memoryview]:
        call = self.calls.get(header.request_id)
        self._receiving = header.request_id
        if call is None or call.scatter is None or call.future.done():
            return [buffer(header.data_bytes)]
        return call.scatter(body, header.data_bytes)

    def frame_received(self, header: Header, body: bytes, data: Sequence[memoryview]) -> None:
        call = self.calls.pop(header.request_id, None)
        self._receiving = 0
        if call is None or call.future.done():
            return  # the caller gave up
        if header.kind is Kind.ERROR:
            code, message = unpack_error(body)
            call.future.set_exception(from_wire(code, header.ticket, message))
        elif header.kind is Kind.REPLY:
            call.future.set_result(Reply(body, data if call.scatter is None else ()))
        else:
            raise FrameDamaged("a request arrived where a reply was expected")

    def closed(self, reason: str) -> None:
        calls, self.calls = self.calls, {}
        for call in calls.values():
            if not call.future.done():
                call.future.set_exception(Unreachable(f"connection to {self.peer} broke: {reason}"))

    async def exchange(
        self, method: int, body: bytes, data: Sequence[Buffer], timeout_s: float, scatter: Scatter | None
    ) -> Reply:
        """The reply; TimeoutError if none comes in time."""
        request_id = next(self._ids)
        call = self.calls[request_id] = _Call(asyncio.get_running_loop().create_future(), scatter)
        limit = self._limits.start(timeout_s, call.expire)
        timeout_ms = max(1, int(timeout_s * 1000))
        try:
            if self.congested:
                async with asyncio.timeout(timeout_s):
                    await self.send(Kind.REQUEST, method, request_id, body, data, timeout_ms=timeout_ms)
            else:
                self.write(Kind.REQUEST, method, request_id, body, data, timeout_ms=timeout_ms)
            return await call.future
        finally:
            self._limits.lift(limit)
            if self.calls.pop(request_id, None) is not None and self._receiving == request_id:
                self.divert()  # the caller's buffers are its own again
            if not call.future.done():
                call.future.cancel()
            elif not call.future.cancelled():
                call.future.exception()  # taken note of: a broken connection is no news to a caller that has gone


class FrameTransport(Transport):
    """Connections by address, made on demand, dropped when they break."""

    def __init__(self) -> None:
        self._connections: dict[str, _Connection] = {}
        self._connecting: dict[str, asyncio.Lock] = {}

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
        try:
            connection = self._connections.get(address)
            if connection is None or connection.transport is None:
                async with asyncio.timeout(timeout_s):
                    connection = await self._connect(address, timeout_s)
            return await connection.exchange(method, body, data, timeout_s, scatter)
        except TimeoutError as exc:
            raise Timeout(f"{address} did not answer method {method:#06x} within {timeout_s:g} s") from exc
        except ThreefsError:
            raise
        except ConnectionRefusedError as exc:
            raise Refused(f"nobody listens at {address}: {exc}") from exc
        except OSError as exc:
            raise Unreachable(f"cannot reach {address}: {exc}") from exc

    async def _connect(self, address: str, timeout_s: float) -> _Connection:
        async with self._connecting.setdefault(address, asyncio.Lock()):
            known = self._connections.get(address)
            if known is not None and known.transport is not None:
                return known
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                raise Unreachable(f"{address!r} is no address: expected host:port")
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(min(CONNECT_TIMEOUT_S, timeout_s)):
                    _, connection = await loop.create_connection(_Connection, host.strip("[]"), int(port))
            except TimeoutError as exc:
                raise Unreachable(f"cannot connect to {address} within {CONNECT_TIMEOUT_S:g} s") from exc
            self._connections[address] = connection
            return connection

    async def close(self) -> None:
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.abort("closed")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
