"""Through the library: batched 4 KiB and 1 MiB reads of chunks that the storage daemons have in their page cache."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random
from time import perf_counter

from threefs.client.connect import Connection
from threefs.client.filesystem import FileSystem
from threefs.client.storage.types import ReadIO
from threefs.common.files import Inode
from threefs.common.ids import ChunkId
from threefs.native.buffers import buffer
from threefs.workloads.bench.echo import METHOD, echo_process, pack
from threefs.workloads.bench.local import BLOCK_BYTES
from threefs.workloads.bench.measure import Measurement

FILE = "/.bench-library"
FILE_BYTES = 64 << 20
IN_FLIGHT = 8  # batches at a time


async def batched_reads(connection: Connection, local: Path, *, seconds: float = 3.0) -> list[Measurement]:
    """4 KiB reads in batches of 32 (reads a second) and 1 MiB reads (MiB/s), beside the bare echo."""
    files = FileSystem(connection.runtime, connection.meta, connection.storage)
    content = os.urandom(FILE_BYTES)
    await files.write_bytes(FILE, content)
    inode = await files.stat(FILE)
    await _warm(connection, inode)
    copy = local / "echo"
    copy.write_bytes(content)
    results = []
    async with echo_process(copy) as address:
        for name, size, batch, unit in (("4 KiB", 4096, 32, "1/s"), ("1 MiB", BLOCK_BYTES, 1, "MiB/s")):
            ours = await _rate(seconds, partial(_read, connection, inode, size, batch))
            bare = await _rate(seconds, partial(_echo, connection, address, size, batch))
            scale = batch if unit == "1/s" else batch * size / 2**20
            text = f"{name} reads, {batch} a batch, {IN_FLIGHT} batches in flight"
            results.append(Measurement(text, unit, ours * scale, bare * scale, "bare frame-and-pread echo"))
    await files.remove(FILE)
    copy.unlink()
    return results


async def _warm(connection: Connection, inode: Inode) -> None:
    """Reads all of it from every replica, which take turns: then the page caches hold it, as that of the echo does."""
    layout = inode.layout
    assert layout is not None
    for _ in range(len(connection.routing.routing.chains[layout.chain_of(0)].targets)):
        out = buffer(FILE_BYTES)
        views = [out[at : at + layout.chunk_bytes] for at in range(0, FILE_BYTES, layout.chunk_bytes)]
        await connection.storage.read(
            [ReadIO(layout.chain_of(n), ChunkId(inode.id, n), 0, view) for n, view in enumerate(views)]
        )


async def _rate(seconds: float, batch: Callable[[Random], Awaitable[None]]) -> float:
    """Batches a second, IN_FLIGHT at a time."""
    began = perf_counter()
    done = 0

    async def worker(number: int) -> None:
        nonlocal done
        random = Random(number)
        while perf_counter() - began < seconds:
            await batch(random)
            done += 1

    await asyncio.gather(*(worker(number) for number in range(IN_FLIGHT)))
    return done / (perf_counter() - began)


def _offsets(random: Random, size: int, count: int) -> list[int]:
    return [random.randrange(FILE_BYTES // size) * size for _ in range(count)]


async def _read(connection: Connection, inode: Inode, size: int, count: int, random: Random) -> None:
    layout = inode.layout
    assert layout is not None
    out = buffer(size * count)
    ios = []
    for position, offset in enumerate(_offsets(random, size, count)):
        number, within = divmod(offset, layout.chunk_bytes)
        view = out[position * size : (position + 1) * size]
        ios.append(ReadIO(layout.chain_of(number), ChunkId(inode.id, number), within, view))
    await connection.storage.read(ios)
    for io in ios:
        if io.error is not None:
            raise io.error
        assert io.length == size, f"read {io.length} of {size} bytes of chunk {io.chunk}"


async def _echo(connection: Connection, address: str, size: int, count: int, random: Random) -> None:
    out = buffer(size * count)
    body = pack([(offset, size) for offset in _offsets(random, size, count)])
    await connection.transport.call(address, METHOD, body, timeout_s=10, scatter=lambda _body, _length: [out])
