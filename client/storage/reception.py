"""Where the data of one read reply goes, and whether it is right. Used by `client.storage.readers`.

Large pieces are received straight into the callers' buffers. Small ones come in one piece and are copied: a system
call and a callback for each 4 KiB cost more than the copy. The one rule: nothing counts before its CRC32C is right.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from threefs.client.storage import metrics
from threefs.client.storage.types import ReadIO
from threefs.common.errors import ChecksumMismatch, from_wire
from threefs.native.buffers import buffer
from threefs.native.checksum import crc32c, crc32c_pieces
from threefs.native.read_reply import is_plain
from threefs.proto import data_plane
from threefs.proto.data_plane import Array

COPY_BYTES = 16 << 10  # pieces up to this size on average are copied


class Reception:
    """One reply to a batch of reads, whose request was `body`. Each element ends with its length or an error."""

    __slots__ = ("_answers", "_asked", "_messages", "_reply", "_scratch", "address", "body", "ios")

    def __init__(self, ios: Sequence[ReadIO], body: bytes, asked_bytes: int, address: str) -> None:
        self.ios = ios
        self.body = body
        self.address = address
        self._asked = asked_bytes
        self._reply: bytes | None = None  # as it came, if it may be one in which nothing is wrong
        self._answers: Array | None = None  # checked, element by element
        self._messages: list[str] = []
        self._scratch: memoryview | None = None

    def scatter(self, body: bytes, data_bytes: int) -> Sequence[memoryview]:
        """The views that the data is received into; Malformed if the reply does not fit the request."""
        count = len(self.ios)
        copied = count > 1 and data_bytes <= COPY_BYTES * count
        if copied:
            self._scratch = buffer(data_bytes)
            if data_bytes == self._asked and len(body) == data_plane.READ_REPLY_BYTES * count:
                self._reply = body
                return [self._scratch]
        sizes = self._unpack(body, data_bytes)
        if self._scratch is not None:
            return [self._scratch]
        return [_part(io.buffer, size) for io, size in zip(self.ios, sizes, strict=True) if size]

    def finish(self, reply: bytes) -> None:
        """Everything has arrived: checks it and ends each element, or says what was wrong with it; Malformed if the
        reply does not fit the request."""
        if self._reply is None and self._answers is None:
            self.scatter(reply, 0)  # without data nobody asked where it goes
        if self._reply is not None and self._scratch is not None:
            if is_plain(self.body, self._reply, len(self.ios), self._scratch):
                self._take_all(self._scratch)
                return
            self._unpack(self._reply, self._asked)
        self._take_each()

    def _unpack(self, body: bytes, data_bytes: int) -> list[int]:
        """Sizes of the elements."""
        ios = self.ios
        answers, self._messages = data_plane.unpack_read_replies(body, len(ios), data_bytes)
        sizes: list[int] = answers["bytes"].tolist()
        for io, size in zip(ios, sizes, strict=True):
            if size > len(io.buffer):
                raise data_plane.Malformed(f"{size} bytes came for a buffer of {len(io.buffer)}")
        self._answers = answers
        return sizes

    def _take_all(self, data: memoryview) -> None:
        """Every element is as long as its buffer, and right."""
        start = 0
        for io in self.ios:
            view = io.buffer
            size = io.length = len(view)
            view[:] = data[start : start + size]
            io.error = None
            start += size

    def _take_each(self) -> None:
        answers, ios = self._answers, self.ios
        assert answers is not None, "a reply is looked at before it is taken"
        sizes = answers["bytes"].tolist()
        sums = answers["crc32c"].tolist()
        if self._scratch is None:
            found = [crc32c(_part(io.buffer, size)) for io, size in zip(ios, sizes, strict=True)]
        else:
            found = crc32c_pieces(self._scratch, sizes)
        start = 0
        for index, (io, size) in enumerate(zip(ios, sizes, strict=True)):
            if self._messages and answers["status"][index]:
                io.error = from_wire(int(answers["status"][index]), errno.EIO, self._messages[index])
            elif found[index] != sums[index]:
                metrics.CHECKSUM_MISMATCHES.inc()
                io.error = ChecksumMismatch(f"chunk {io.chunk} from {self.address}: the data is not what was sent")
            else:
                if self._scratch is not None:
                    _part(io.buffer, size)[:] = self._scratch[start : start + size]
                io.length, io.error = size, None
            start += size


def _part(view: memoryview, size: int) -> memoryview:
    return view if size == len(view) else view[:size]
