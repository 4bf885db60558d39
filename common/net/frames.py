"""Frames over TCP: one connection a peer, many requests in flight, data received into its final place.

`FrameProtocol` is what both ends share: asyncio's BufferedProtocol hands the kernel a view of a small stage, where
headers and bodies arrive, or of the destination of bulk data, which is so copied once, by the kernel. A frame that is
damaged ends its connection: after it nothing on the stream can be trusted.
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
_STAGE_BYTES = 8 << 10  # a small frame comes in one read; of bulk data no more than this is copied


class FrameProtocol(asyncio.BufferedProtocol):
    """Cuts the stream into frames. Subclasses place the data (`place`) and take complete frames (`frame_received`).

    Bytes are received into a small stage until a header and its body are there. Data beyond what the stage has got
    already, and bodies larger than it, are received into their own place.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self._stage = memoryview(bytearray(_STAGE_BYTES))
        self._start = 0  # of what has not been used yet in the stage
        self._end = 0  # of what was received into the stage
        self._header: Header | None = None  # of the frame that is being received
        self._body: bytes | None = None  # its body, once it is complete
        self._data: list[memoryview] = []  # all views of its data
        self._pending: list[memoryview] = []  # those that are not full; the first is being filled
        self._large_body: bytearray | None = None  # what `_pending` is, if it is a body
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
        return self._pending[0] if self._pending else self._stage[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._pending:
                self._fill(nbytes)
            else:
                self._end += nbytes
                self._parse()
        except FrameDamaged as exc:
            _log.error("damaged frame from %s: %s; closing the connection", self.peer, exc)
            self.abort(f"damaged frame: {exc}")

    def _fill(self, nbytes: int) -> None:
        """`nbytes` more are in the first pending view."""
        rest = self._pending[0][nbytes:]
        if len(rest):
            self._pending[0] = rest
            return
        del self._pending[0]
        if not self._pending:
            self._filled()

    def _filled(self) -> None:
        """All that did not go through the stage is there; the stage is empty."""
        if self._large_body is not None:
            body, self._large_body = bytes(self._large_body), None
            self._take_body(body)
        else:
            self._take_frame()

    def _parse(self) -> None:
        """Uses up what the stage holds: any number of frames, then the beginning of one."""
        while self._end - self._start >= HEADER_BYTES or self._header is not None:
            header = self._header
            if header is None:
                header = self._header = unpack(self._stage[self._start : self._start + HEADER_BYTES])
                self._start += HEADER_BYTES
            if header.body_bytes > _STAGE_BYTES:
                self._large_body = bytearray(header.body_bytes)
                self._receive([memoryview(self._large_body)])
                return
            end = self._start + header.body_bytes
            if end > self._end:
                break
            body = bytes(self._stage[self._start : end])
            self._start = end
            self._take_body(body)
            if self._pending:
                return
        self._compact()

    def _compact(self) -> None:
        """What is left goes to the front of the stage, so that the rest of its frame fits behind it."""
        left = self._end - self._start
        if left and self._start:
            self._stage[:left] = bytes(self._stage[self._start : self._end])
        self._start, self._end = 0, left

    def _take_body(self, body: bytes) -> None:
        header = self._header
        assert header is not None
        check_body(header, body)
        self._body = body
        if not header.data_bytes:
            self._take_frame()
            return
        self._data = [view for view in self.place(header, body) if len(view)]
        if sum(map(len, self._data)) != header.data_bytes:
            raise FrameDamaged(f"data of {header.data_bytes} bytes does not fit what the request asked for")
        self._receive(self._data)

    def _receive(self, views: list[memoryview]) -> None:
        """What the stage holds of these bytes goes into `views`, the rest is received there."""
        self._pending = list(views)
        while self._pending and self._start < self._end:
            view = self._pending[0]
            count = min(len(view), self._end - self._start)
            view[:count] = self._stage[self._start : self._start + count]
            self._start += count
            if count < len(view):
                self._pending[0] = view[count:]
            else:
                del self._pending[0]
        if self._pending:
            self._start = self._end = 0
        else:
            self._filled()

    def _take_frame(self) -> None:
        header, body, data = self._header, self._body, self._data
        assert header is not None
        assert body is not None
        self._header, self._body, self._data = None, None, []
        self.frame_received(header, body, data)

    def divert(self) -> None:
        """Whoever waited for the data being received gave up: the rest goes into a scratch buffer."""
        if self._pending and self._large_body is None:
            rest = sum(map(len, self._pending))
            self._data = []
            self._pending = [buffer(rest)]

    # --- writing ---------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """True while `send` has to wait."""
        return not self._writable.is_set()

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
        """`write`, once the connection is not congested."""
        while not self._writable.is_set():
            await self._writable.wait()
        self.write(kind, method, request_id, body, data, timeout_ms=timeout_ms, ticket=ticket)

    def write(
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
        """Queues a frame, congested or not. The data must stay unchanged until it is sent."""
        sizes = sum(map(len, data)) if data else 0
        head = pack(kind, method, request_id, body, sizes, timeout_ms=timeout_ms, ticket=ticket)
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError(f"connection to {self.peer} is closed")
        if not data:
            self.transport.write(head)
        elif sizes <= _SMALL_DATA_BYTES:
            self.transport.write(b"".join((head, *data)))
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
        if self._header is not None or self._end:
            _log.warning("connection from %s ended inside a frame", self.peer)
        return False

    def abort(self, reason: str) -> None:
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
