"""Frames over TCP: one connection a peer, many requests in flight, data received into its final place.

`FrameProtocol` is the reading half that both ends share: asyncio's BufferedProtocol hands the kernel a view of
exactly what is expected next: a header, a body, or the destination of the data. So data is copied once, by the
kernel. A frame that is damaged ends its connection: after it nothing on the stream can be trusted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import cast

from threefs.common.net.frame import HEADER_BYTES, FrameDamaged, Header, Kind, check_body, pack, unpack
from threefs.common.net.interface import Buffer
from threefs.native.buffers import buffer

_log = logging.getLogger(__name__)
WRITE_BUFFER_BYTES_MAX = 8 << 20
SOCKET_BUFFER_BYTES = 4 << 20
_SMALL_DATA_BYTES = 16 << 10  # below this, one joined write beats a vector of small ones


class FrameProtocol(asyncio.BufferedProtocol):
    """Cuts the stream into frames. Subclasses place the data (`place`) and take complete frames (`frame_received`)."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._header: Header | None = None
        self._body = b""
        self._filled = 0  # of the current view
        self._view = self._head
        self._pending: list[memoryview] = []  # views that the rest of the data goes into
        self._writable = asyncio.Event()
        self._writable.set()

    # --- what a subclass says -------------------------------------------------------------------------------

    def place(self, header: Header, body: bytes) -> Sequence[memoryview]:
        """Where the data of this frame goes; views whose lengths sum to `header.data_bytes`."""
        return [buffer(header.data_bytes)]

    def frame_received(self, header: Header, body: bytes, data: Sequence[memoryview]) -> None:
        raise AssertionError("a subclass takes the frames")

    def closed(self, reason: str) -> None:
        """The connection is gone; called once."""

    # --- reading ---------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        try:
            while self._filled == len(self._view):
                if not self._advance():
                    break
        except FrameDamaged as exc:
            _log.error("damaged frame from %s: %s; closing the connection", self.peer, exc)
            self.abort(f"damaged frame: {exc}")

    def _advance(self) -> bool:
        """The current view is full: on to what comes next. True if that may be empty and so full as well."""
        if self._header is None:
            self._header = unpack(self._head)
            if self._header.body_bytes:
                self._expect(memoryview(bytearray(self._header.body_bytes)))
                return False
            return self._body_done(b"")
        if self._pending_data is None:
            return self._body_done(bytes(self._view))
        return self._data_done()

    _pending_data: list[memoryview] | None = None  # all views of the data; None while header and body are read

    def _body_done(self, body: bytes) -> bool:
        assert self._header is not None
        check_body(self._header, body)
        self._body = body
        views = [view for view in self.place(self._header, body) if len(view)] if self._header.data_bytes else []
        if sum(map(len, views)) != self._header.data_bytes:
            raise FrameDamaged(f"data of {self._header.data_bytes} bytes does not fit what the request asked for")
        self._pending_data, self._pending = views, list(views)
        return self._data_done()

    def _data_done(self) -> bool:
        assert self._header is not None
        assert self._pending_data is not None
        if self._pending:
            self._expect(self._pending.pop(0))
            return False
        header, body, data = self._header, self._body, self._pending_data
        self._header, self._pending_data = None, None
        self._expect(self._head)
        self.frame_received(header, body, data)
        return False

    def _expect(self, view: memoryview) -> None:
        self._view, self._filled = view, 0

    def divert(self) -> None:
        """Whoever waited for the data being received gave up: the rest goes into a scratch buffer."""
        if self._pending_data:
            rest = len(self._view) - self._filled + sum(map(len, self._pending))
            self._pending_data, self._pending = [], []
            self._expect(buffer(rest))

    # --- writing ---------------------------------------------------------------------------------------------

    async def send(
        self,
        kind: Kind,
        method: int,
        request_id: int,
        body: bytes,
        data: Sequence[Buffer] = (),
        *,
        timeout_ms: int = 0,
        ticket: int = 0,
    ) -> None:
        """Queues a frame; waits while the connection is congested. The data must stay unchanged until it is sent."""
        sizes = sum(map(len, data))
        head = pack(kind, method, request_id, body, sizes, timeout_ms=timeout_ms, ticket=ticket)
        await self._writable.wait()
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError(f"connection to {self.peer} is closed")
        if sizes <= _SMALL_DATA_BYTES:
            self.transport.write(b"".join((head, *data)) if data else head)
        else:
            self.transport.writelines([head, *data])

    # --- connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have all methods of asyncio.Transport and do not derive from it.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES_MAX)
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else "?"
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._writable.set()
        self.divert()
        self.closed(str(exc) if exc else "closed by the peer")

    def eof_received(self) -> bool:
        if self._header is not None or self._filled:
            _log.warning("connection from %s ended inside a frame", self.peer)
        return False

    def abort(self, reason: str) -> None:
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
