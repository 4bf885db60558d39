"""Where the data of one read reply goes, and whether it is right. Used by `client.storage.readers`.

Large pieces are received straight into the callers' buffers. Small ones come in one piece and are copied: a system
call and a callback for each 4 KiB cost more than the copy. The one rule: nothing counts before its CRC32C is right.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from threefs.client.storage import metrics
from threefs.client.storage.batches import Fetch
from threefs.common.errors import ChecksumMismatch, from_wire
from threefs.native.buffers import buffer
from threefs.native.checksum import crc32c, crc32c_pieces
from threefs.proto import data_plane
from threefs.proto.data_plane import Array

COPY_BYTES = 16 << 10  # pieces up to this size on average are copied


class Reception:
    """One reply to a batch of reads."""

    def __init__(self, batch: Sequence[Fetch]) -> None:
        self.answers: Array | None = None
        self._batch = batch
        self._messages: list[str] = []
        self._scratch: memoryview | None = None

    def scatter(self, body: bytes, data_bytes: int) -> Sequence[memoryview]:
        """The views that the data is received into; Malformed if the reply does not fit the request."""
        batch = self._batch
        answers, self._messages = data_plane.unpack_read_replies(body, len(batch), data_bytes)
        sizes = answers["bytes"].tolist()
        for fetch, size in zip(batch, sizes, strict=True):
            if size > len(fetch.io.buffer):
                raise data_plane.Malformed(f"{size} bytes came for a buffer of {len(fetch.io.buffer)}")
        self.answers = answers
        if len(batch) > 1 and data_bytes <= COPY_BYTES * len(batch):
            self._scratch = buffer(data_bytes)
            return [self._scratch]
        return [_part(fetch.io.buffer, size) for fetch, size in zip(batch, sizes, strict=True) if size]

    def finish(self) -> None:
        """Everything has arrived: checks it and ends each element, or says what was wrong with it."""
        answers, batch = self.answers, self._batch
        assert answers is not None, "a reply is looked at before it is taken"
        sizes = answers["bytes"].tolist()
        sums = answers["crc32c"].tolist()
        if self._scratch is None:
            found = [crc32c(_part(fetch.io.buffer, size)) for fetch, size in zip(batch, sizes, strict=True)]
        else:
            found = crc32c_pieces(self._scratch, sizes)
        start = 0
        for index, (fetch, size) in enumerate(zip(batch, sizes, strict=True)):
            io = fetch.io
            if self._messages and answers["status"][index]:
                io.error = from_wire(int(answers["status"][index]), errno.EIO, self._messages[index])
            elif found[index] != sums[index]:
                metrics.CHECKSUM_MISMATCHES.inc()
                io.error = ChecksumMismatch(
                    f"chunk {io.chunk} from target {fetch.target}: the data is not what was sent"
                )
            else:
                if self._scratch is not None:
                    _part(io.buffer, size)[:] = self._scratch[start : start + size]
                io.length, io.error, fetch.done = size, None, True
            start += size


def _part(view: memoryview, size: int) -> memoryview:
    return view if size == len(view) else view[:size]
