"""The serving side of frames over TCP, and the carrier that makes both ends."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from threefs.common.errors import InternalError, ThreefsError, Throttled, Unsupported, UserError, to_wire
from threefs.common.net.frame import FrameDamaged, Header, Kind, pack_error
from threefs.common.net.frame_client import FrameTransport
from threefs.common.net.frames import FrameProtocol
from threefs.common.net.interface import Carrier, Handler, Reply, Request, Server, Transport
from threefs.common.runtime.interface import Runtime

_log = logging.getLogger(__name__)
IN_FLIGHT_MAX = 4096  # requests of one connection; beyond it the caller is told to slow down
DRAIN_S = 2.0  # what a closing server gives to handlers that run
_EMPTY = memoryview(b"")


class _Session(FrameProtocol):
    """One accepted connection: a task per request, replies in the order in which they are ready."""

    def __init__(self, server: FrameServer) -> None:
        super().__init__()
        self._server = server
        self.running = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.sessions[self] = None

    def closed(self, reason: str) -> None:
        self._server.sessions.pop(self, None)

    def frame_received(self, header: Header, body: bytes, data: Sequence[memoryview]) -> None:
        if header.kind is not Kind.REQUEST:
            raise FrameDamaged("a reply arrived where a request was expected")
        request = Request(header.method, body, data[0] if data else _EMPTY, self.peer, header.timeout_ms / 1000)
        prompt = self._server.prompt.get(header.method)
        if prompt is not None and not self.congested and (reply := prompt(request)) is not None:
            self.write(Kind.REPLY, header.method, header.request_id, reply.body, reply.data)
            return
        self.running += 1
        self._server.start_task(self._serve(header, request))

    async def _serve(self, header: Header, request: Request) -> None:
        try:
            handler = self._server.handlers.get(header.method)
            if handler is None:
                raise Unsupported(f"method {header.method:#06x} is not served at {self._server.address}")
            if self.running > IN_FLIGHT_MAX:
                raise Throttled(f"more than {IN_FLIGHT_MAX} requests in flight from {self.peer}")
            reply = await handler(request)
            if self.congested:
                await self.send(Kind.REPLY, header.method, header.request_id, reply.body, reply.data)
            else:
                self.write(Kind.REPLY, header.method, header.request_id, reply.body, reply.data)
        except ConnectionError:
            _log.debug("%s left before its answer to method %#06x", self.peer, header.method)
        except ThreefsError as exc:
            await self._fail(header, exc)
        except Exception as exc:
            _log.exception("handler of method %#06x failed; this is a bug", header.method)
            await self._fail(header, InternalError(f"{type(exc).__name__}: {exc}"))
        finally:
            self.running -= 1
            self._server.tasks.discard(asyncio.current_task())

    async def _fail(self, header: Header, error: ThreefsError) -> None:
        code, number, message = to_wire(error)
        try:
            await self.send(Kind.ERROR, header.method, header.request_id, pack_error(code, message), ticket=number)
        except ConnectionError:
            _log.debug("%s left before the error of method %#06x", self.peer, header.method)


class FrameServer(Server):
    """Listens on "host:port" (port 0: any free one); `address` is what clients connect to."""

    def __init__(self, runtime: Runtime, listen: str, handlers: Mapping[int, Handler]) -> None:
        self.runtime = runtime
        self.handlers = handlers
        self.prompt: dict[int, Callable[[Request], Reply | None]] = {
            method: handler.at_once for method, handler in handlers.items() if hasattr(handler, "at_once")
        }
        self.address = listen
        self.sessions: dict[_Session, None] = {}
        self.tasks: set[asyncio.Task[None] | None] = set()  # requests being served
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """UserError if the address is taken or not ours."""
        host, _, port = self.address.rpartition(":")
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: _Session(self), host.strip("[]"), int(port), backlog=1024
            )
        except OSError as exc:
            hint = "stop what listens there, or set another address in the configuration"
            reason = "the port is in use" if exc.errno == errno.EADDRINUSE else str(exc.strerror or exc)
            raise UserError(f"cannot listen on {self.address}: {reason}", hint) from exc
        bound = self._listener.sockets[0].getsockname()
        self.address = f"{host}:{bound[1]}"

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs the work of one request, which takes itself out of `tasks`. (`Runtime.spawn` costs twice as much.)"""
        self.tasks.add(asyncio.get_running_loop().create_task(work))

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        deadline = self.runtime.now() + DRAIN_S
        while any(session.running for session in self.sessions) and self.runtime.now() < deadline:
            await self.runtime.sleep(0.01)
        for task in filter(None, list(self.tasks)):
            task.cancel()
        for session in list(self.sessions):
            session.abort("server closes")
        self._listener = None


class FrameCarrier(Carrier):
    """TCP for one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def transport(self) -> Transport:
        return FrameTransport()

    def server(self, listen: str, handlers: Mapping[int, Handler]) -> Server:
        return FrameServer(self._runtime, listen, handlers)
