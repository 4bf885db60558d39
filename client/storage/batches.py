"""From elements to batches: which daemon gets what, in which order. Pure; used by the storage client.

The one rule: a batch stays within the limits of a frame, and elements of one chunk stay in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from threefs.client.storage.channels import Ticket
from threefs.client.storage.routes import ReadRoute
from threefs.client.storage.types import ReadIO, WriteIO
from threefs.common.errors import ThreefsError
from threefs.common.ids import ChainId, ChunkId, TargetId
from threefs.native.checksum import crc32c, crc32c_combine
from threefs.proto.data_plane import KIND_WRITE

BATCH_ELEMENTS = 128
BATCH_BYTES = 4 << 20

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Change:
    """One update as it is sent: one or more write elements that touch, or a change of length."""

    chain: ChainId
    chunk: ChunkId
    chunk_bytes: int
    kind: int = KIND_WRITE
    offset: int = 0
    bytes: int = 0
    crc32c: int = 0
    pieces: list[memoryview] = field(default_factory=list)
    ios: list[WriteIO] = field(default_factory=list)
    ticket: Ticket | None = None
    error: ThreefsError | None = None
    done: bool = False


@dataclass(slots=True, eq=False)
class Fetch:
    """One read element on its way: where it was sent, and what to avoid next time."""

    io: ReadIO
    target: TargetId = TargetId(0)
    route: ReadRoute | None = None  # by which the target was chosen
    failed: tuple[TargetId, ...] = ()  # replicas that failed in this round
    rounds: int = 0  # times that every replica failed
    ask_tail: bool = False
    done: bool = False


def merge_writes(ios: Iterable[WriteIO]) -> list[Change]:
    """One change for each run of elements that follow one another in one chunk; at most BATCH_BYTES each."""
    changes: list[Change] = []
    newest: dict[tuple[ChainId, ChunkId], Change] = {}
    for io in ios:
        key = (io.chain, io.chunk)
        size = len(io.data)
        crc = crc32c(io.data)
        last = newest.get(key)
        if last is not None and last.offset + last.bytes == io.offset and last.bytes + size <= BATCH_BYTES:
            last.crc32c = crc32c_combine(last.crc32c, crc, size)
            last.bytes += size
        else:
            last = newest[key] = Change(io.chain, io.chunk, io.chunk_bytes, KIND_WRITE, io.offset, size, crc)
            changes.append(last)
        last.pieces.append(io.data)
        last.ios.append(io)
    return changes


def split(items: Sequence[T], size_of: Callable[[T], int]) -> list[Sequence[T]]:
    """Batches within BATCH_ELEMENTS and BATCH_BYTES (or of one element)."""
    batches: list[Sequence[T]] = []
    start, total = 0, 0
    for index, item in enumerate(items):
        size = size_of(item)
        if index > start and (total + size > BATCH_BYTES or index - start == BATCH_ELEMENTS):
            batches.append(items[start:index])
            start, total = index, 0
        total += size
    if start < len(items):
        batches.append(items[start:])
    return batches
