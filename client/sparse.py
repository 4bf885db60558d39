"""Holes: finding them, making them, filling them. At the granularity of chunks, which is what storage keeps.

Used by the mount's lseek and fallocate and by the library. A chunk that exists counts as data from its first to
its last byte; a hole is a chunk that does not exist.
"""

from __future__ import annotations

import asyncio
import enum
import errno

from threefs.client.open_inode import OpenInode, pieces
from threefs.client.storage.types import ReadIO
from threefs.common.errors import FileError
from threefs.common.ids import ChainId, ChunkId, InodeId
from threefs.native.buffers import buffer

PROBES = 128  # chunks asked for at once
ZERO_BYTES = 1 << 20
REMOVED_MAX = 1024  # chunks of one chain in one request


class Fallocate(enum.IntFlag):
    """Mode of fallocate(2)."""

    NONE = 0
    KEEP_SIZE = 1
    PUNCH_HOLE = 2
    COLLAPSE_RANGE = 8
    ZERO_RANGE = 16
    INSERT_RANGE = 32
    UNSHARE_RANGE = 64


async def next_data(state: OpenInode, offset: int) -> int:
    """The first byte at or after `offset` that is data; ENXIO if there is none."""
    return await _seek(state, offset, wanted=True)


async def next_hole(state: OpenInode, offset: int) -> int:
    """The first byte at or after `offset` that is in a hole; the end of the file is one."""
    return await _seek(state, offset, wanted=False)


async def _seek(state: OpenInode, offset: int, *, wanted: bool) -> int:
    await state.buffer.settle()
    if not 0 <= offset < state.length:
        raise FileError(errno.ENXIO, f"offset {offset} of {state.length}")
    chunk_bytes = state.layout.chunk_bytes
    chunk, end = offset // chunk_bytes, -(-state.length // chunk_bytes)
    while chunk < end:
        for index, exists in enumerate(await _probe(state, chunk, min(PROBES, end - chunk))):
            if exists is wanted:
                return max(offset, (chunk + index) * chunk_bytes)
        chunk += PROBES
    if wanted:
        raise FileError(errno.ENXIO, f"no data after {offset}")
    return state.length


async def _probe(state: OpenInode, first: int, count: int) -> list[bool]:
    memory = buffer(count)
    ios = [
        ReadIO(
            state.layout.chain_of(first + index),
            ChunkId(InodeId(state.id), first + index),
            0,
            memory[index : index + 1],
        )
        for index in range(count)
    ]
    await state.services.storage.read(ios)
    for io in ios:
        if io.error is not None:
            raise io.error
    return [io.length > 0 for io in ios]


async def allocate(state: OpenInode, offset: int, size: int, mode: Fallocate) -> None:
    """fallocate(2). Space is taken for whole chunks; beyond the end of the file (KEEP_SIZE) none is kept."""
    allowed = Fallocate.KEEP_SIZE | Fallocate.PUNCH_HOLE | Fallocate.ZERO_RANGE
    if mode & ~allowed or (mode & Fallocate.PUNCH_HOLE and mode & Fallocate.ZERO_RANGE):
        raise FileError(errno.EOPNOTSUPP, f"fallocate mode {mode:#x}")
    if mode & Fallocate.PUNCH_HOLE and not mode & Fallocate.KEEP_SIZE:
        raise FileError(errno.EOPNOTSUPP, "a hole is punched with KEEP_SIZE")
    end = offset + size
    state.check_end(end)
    await state.buffer.flush()
    inside = min(end, state.length)
    if mode & (Fallocate.PUNCH_HOLE | Fallocate.ZERO_RANGE):
        await _erase(state, offset, inside)
    else:
        await _fill(state, offset, inside if mode & Fallocate.KEEP_SIZE else end)
    if end > state.length and not mode & Fallocate.KEEP_SIZE:
        await state.truncate(end, opened=True)
    else:
        state.touch()


async def _erase(state: OpenInode, begin: int, end: int) -> None:
    """The bytes [begin, end) read as zeros; whole chunks are given back."""
    chunk_bytes = state.layout.chunk_bytes
    first, last = -(-begin // chunk_bytes), end // chunk_bytes
    if end == state.length:
        last = -(-end // chunk_bytes)  # nothing follows in the last chunk
    if first >= last:
        await _write_zeros(state, begin, end)
        return
    await _write_zeros(state, begin, first * chunk_bytes)
    await _write_zeros(state, last * chunk_bytes, end)
    await asyncio.gather(*(_remove(state, chain, first, last) for chain in dict.fromkeys(state.layout.chains)))


async def _remove(state: OpenInode, chain: ChainId, first: int, last: int) -> None:
    removed = REMOVED_MAX
    while removed == REMOVED_MAX:
        removed = await state.services.storage.remove_chunks(
            chain, InodeId(state.id), first=first, last=last, limit=REMOVED_MAX
        )


async def _write_zeros(state: OpenInode, begin: int, end: int) -> None:
    zeros = memoryview(bytes(min(ZERO_BYTES, max(end - begin, 0))))
    while begin < end:
        piece = zeros[: end - begin]
        await state.write(begin, piece, owned=True)
        begin += len(piece)
    await state.buffer.flush()


async def _fill(state: OpenInode, begin: int, end: int) -> None:
    """Every chunk of [begin, end) exists and is as long as the range needs."""
    storage, chunk_bytes = state.services.storage, state.layout.chunk_bytes
    limit = asyncio.Semaphore(16)

    async def extend(chunk: int, length: int) -> None:
        async with limit:
            await storage.truncate_chunk(
                state.layout.chain_of(chunk),
                ChunkId(InodeId(state.id), chunk),
                length=length,
                chunk_bytes=chunk_bytes,
                extend_only=True,
            )

    await asyncio.gather(
        *(extend(piece.chunk, piece.offset + piece.size) for piece in pieces(chunk_bytes, begin, end - begin))
    )
