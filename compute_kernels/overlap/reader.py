"""A trace file as batches of whole events, never the whole file at once.

Called by `trace.py`. The rule: memory is bounded by the size of a piece, whatever the size of the file. Event
boundaries are found on arrays of bytes (quotes and brackets only), so Python runs once a piece and not once an
event; what lies between the boundaries goes to the JSON decoder unread.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from threefs.compute_kernels.overlap.errors import TraceError

PIECE_BYTES = 8 << 20
HEAD_BYTES_MAX = 64 << 20
EVENT_BYTES_MAX = 256 << 20
TAIL_BYTES_MAX = 64 << 20

_EVENTS_KEY = re.compile(rb'"traceEvents"\s*:\s*\[')
_QUOTE, _BACKSLASH = 34, 92
_STEP = np.zeros(256, dtype=np.int8)  # how a byte outside strings changes the depth of nesting
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1
_IS_STRUCTURE = _STEP != 0
_IS_STRUCTURE[_QUOTE] = True


class EventReader:
    """Iterate for JSON arrays of events as bytes. `metadata_json` and `is_truncated` are right after the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_truncated = False
        self.metadata_json = b"{}"

    def __iter__(self) -> Iterator[bytes]:
        try:
            with _open(self.path) as file:
                yield from self._batches(file)
        except (OSError, EOFError) as exc:
            raise TraceError(f"{self.path}: cannot be read: {exc}") from exc

    def _batches(self, file: IO[bytes]) -> Iterator[bytes]:
        head, rest = self._split_head(file)
        tail = b""
        while True:
            piece = file.read(PIECE_BYTES)
            rest += piece
            batch, rest, ended = _cut(rest)
            if batch:
                yield b"[" + batch + b"]"
            if ended:
                tail = rest + file.read(TAIL_BYTES_MAX)
                break
            if not piece:
                self.is_truncated = True
                break
            if len(rest) > EVENT_BYTES_MAX:
                raise TraceError(f"{self.path}: one event is larger than {EVENT_BYTES_MAX >> 20} MiB; not a trace?")
        if head:
            self.metadata_json = head + b"[]" + tail

    def _split_head(self, file: IO[bytes]) -> tuple[bytes, bytes]:
        """(what precedes the events, the first bytes after their opening bracket)."""
        text = file.read(PIECE_BYTES).removeprefix(b"\xef\xbb\xbf")
        start = text.lstrip()
        if start.startswith(b"["):
            return b"", start[1:]
        if not start.startswith(b"{"):
            raise TraceError(f"{self.path}: not JSON; expected a Chrome trace, plain or gzipped")
        while (found := _EVENTS_KEY.search(text)) is None:
            more = file.read(PIECE_BYTES)
            if not more or len(text) > HEAD_BYTES_MAX:
                raise TraceError(f'{self.path}: no "traceEvents"; expected a trace of the PyTorch profiler')
            text += more
        return text[: found.end() - 1], text[found.end() :]


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_gzip else path.open("rb")  # type: ignore[return-value]


def _cut(text: bytes) -> tuple[bytes, bytes, bool]:
    """(whole events, what follows them, whether the array ended between the two)."""
    depth, at = _depths(text)
    ends = np.flatnonzero(depth < 0)
    if ends.size:
        end = int(at[ends[0]])
        return text[:end].strip(b", \t\r\n"), text[end + 1 :], True
    closed = np.flatnonzero(depth == 0)
    if not closed.size:
        return b"", text, False
    end = int(at[closed[-1]]) + 1
    return text[:end].lstrip(b", \t\r\n"), text[end:], False


def _depths(text: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Depth of nesting after each bracket outside strings, and where those brackets are."""
    data = np.frombuffer(text, dtype=np.uint8)
    at = np.flatnonzero(_IS_STRUCTURE[data])
    byte = data[at]
    is_quote = byte == _QUOTE
    is_quote &= ~_is_escaped(data, at, is_quote)
    outside = (np.cumsum(is_quote) & 1) == 0
    is_bracket = outside & (byte != _QUOTE)
    at = at[is_bracket]
    return np.cumsum(_STEP[data[at]], dtype=np.int64), at


def _is_escaped(
    data: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], is_quote: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Quotes after an odd number of backslashes."""
    escaped = np.zeros(at.size, dtype=np.bool_)
    back = 1
    candidates = np.flatnonzero(is_quote & (at >= back))
    while candidates.size:
        candidates = candidates[(at[candidates] >= back) & (data[at[candidates] - back] == _BACKSLASH)]
        escaped[candidates] ^= True
        back += 1
    return escaped
