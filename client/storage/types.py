"""What callers of the storage client hand in: one element for each contiguous piece of one chunk.

Used by files, FUSE, metadata (lengths, garbage collection) and tools. The client groups elements by chain and
target, sends batches, follows the routing, retries; each element ends with either `error` or its result set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from threefs.common.errors import ThreefsError
from threefs.common.ids import ChainId, ChunkId, InodeId


@dataclass(slots=True)
class ReadIO:
    """Bytes of one chunk into `buffer`; the buffer's length is what is asked for."""

    chain: ChainId
    chunk: ChunkId
    offset: int
    buffer: memoryview
    length: int = 0  # result: bytes there; short at the end of the chunk, 0 if it does not exist
    error: ThreefsError | None = None


@dataclass(slots=True)
class WriteIO:
    """`data` at `offset` of one chunk; on all serving replicas' stable storage when it ends without error."""

    chain: ChainId
    chunk: ChunkId
    offset: int
    data: memoryview
    chunk_bytes: int
    error: ThreefsError | None = None


@dataclass(frozen=True, slots=True)
class LastChunk:
    """Highest chunk of an inode on one chain; `index` -1 if there is none."""

    index: int
    length: int
    chunk_count: int


class StorageClient(Protocol):
    """The one way to storage targets. Retries until `timeout_s` (the client's default: 60 s)."""

    async def read(self, ios: Sequence[ReadIO], *, timeout_s: float | None = None) -> None: ...

    async def write(self, ios: Sequence[WriteIO], *, timeout_s: float | None = None) -> None:
        """Several elements for one chunk are carried out in their order."""
        ...

    async def truncate_chunk(
        self, chain: ChainId, chunk: ChunkId, *, length: int, chunk_bytes: int, extend_only: bool = False
    ) -> None:
        """Sets a chunk's length (creates it if absent and length > 0); `extend_only` never cuts. A request that comes
        late never cuts what was written after it was decided."""
        ...

    async def remove_chunks(self, chain: ChainId, inode: InodeId, *, first: int, last: int, limit: int = 1024) -> int:
        """Removes chunks first <= index < last of an inode on one chain, `limit` at most; returns how many there
        were: repeat while it equals `limit`. What is written while this runs stays, however late the request comes."""
        ...

    async def query_last_chunk(self, chain: ChainId, inode: InodeId) -> LastChunk: ...

    async def space(self) -> tuple[int, int]:
        """(capacity, free) bytes of the cluster for user data, replication taken into account."""
        ...
