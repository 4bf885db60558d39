"""The native engine against the bare disk, in one run: ratios, and CPU time per GiB.

`pytest -m bench tests/benchmarks/bench_engine.py -s`. The ceilings do the same work without an engine: writers with
O_DIRECT and one fdatasync a write, and readers with preadv. Each figure is the median of alternating rounds.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
import pytest

from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, InodeId, TargetId
from threefs.native.buffers import buffer
from threefs.native.checksum import crc32c
from threefs.proto import data_plane
from threefs.proto.data_plane import ReadRequest
from threefs.storage.engine import READ_ARRAY, Commit, ReadOp, Update, UpdateKind
from threefs.storage.native_engine import NativeEngine

pytestmark = pytest.mark.bench

MIB = 1 << 20
TARGET = TargetId(1)
CHUNKS = 192
ROUNDS = 5
WRITERS = 8
BATCH = 4  # chunks a stage call


@dataclass
class Figure:
    """One side of a comparison: work per second, CPU seconds per unit of work."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    async def measure(self, work: Callable[[], Awaitable[int]]) -> None:
        begin, cpu = time.perf_counter(), _cpu_s()
        done = await work()
        self.rates.append(done / (time.perf_counter() - begin))
        self.cpu.append((_cpu_s() - cpu) / done)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def report(name: str, unit: str, ours: Figure, ceiling: Figure, scale: float) -> float:
    ratio = median(a / b for a, b in zip(ours.rates, ceiling.rates, strict=True))
    print(
        f"\n{name}: {median(ours.rates):,.0f} {unit}, ceiling {median(ceiling.rates):,.0f}, ratio {ratio:.2f}; "
        f"CPU {median(ours.cpu) * scale:.3f} s, ceiling {median(ceiling.cpu) * scale:.3f} s"
    )
    return ratio


def drop_cache(folder: Path) -> None:
    for path in folder.glob("*"):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


class Bare:
    """The disk without an engine: one file, written and read in place."""

    def __init__(self, folder: Path, data: memoryview) -> None:
        self.path = folder / "bare"
        self.data = data
        self.pool = ThreadPoolExecutor(WRITERS)
        self.path.touch()

    async def write(self) -> int:
        """New bytes each time: an overwrite would be cheaper than what the engine does."""
        self.path.unlink()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.posix_fallocate(fd, 0, CHUNKS * MIB)
        loop = asyncio.get_running_loop()

        def writer(first: int) -> None:
            for index in range(first, CHUNKS, WRITERS):
                os.pwrite(fd, self.data, index * MIB)
                os.fdatasync(fd)

        await asyncio.gather(*(loop.run_in_executor(self.pool, writer, n) for n in range(WRITERS)))
        os.close(fd)
        return CHUNKS

    def reader(self, places: list[int], size: int, depth: int) -> Callable[[], Awaitable[int]]:
        fd = os.open(self.path, os.O_RDONLY)
        loop = asyncio.get_running_loop()

        def read(first: int) -> None:
            space = buffer(size)
            for place in places[first::depth]:
                os.preadv(fd, [space], place)

        async def work() -> int:
            await asyncio.gather(*(loop.run_in_executor(self.pool, read, n) for n in range(depth)))
            return len(places)

        return work


async def write_round(engine: NativeEngine, data: memoryview, inode: int) -> int:
    crc = crc32c(data)

    async def writer(first: int) -> None:
        for base in range(first * BATCH, CHUNKS, WRITERS * BATCH):
            ids = [ChunkId(InodeId(inode), number) for number in range(base, min(base + BATCH, CHUNKS))]
            results = await engine.stage(
                [
                    Update(TARGET, i, UpdateKind.WRITE, MIB, ChunkVersion(1), ChainVersion(1), data=data, crc32c=crc)
                    for i in ids
                ]
            )
            assert not any(result.error for result in results)
            await engine.commit([Commit(TARGET, i, ChunkVersion(1), ChainVersion(1)) for i in ids])

    await asyncio.gather(*(writer(n) for n in range(WRITERS)))
    return CHUNKS


def read_round(
    engine: NativeEngine, places: list[int], size: int, batch: int, tasks: int
) -> Callable[[], Awaitable[int]]:
    async def reader(first: int) -> None:
        spaces = [buffer(size) for _ in range(batch)]
        for base in range(first * batch, len(places), tasks * batch):
            ops = [
                ReadOp(TARGET, ChunkId(InodeId(1), place // MIB), place % MIB, space)
                for place, space in zip(places[base : base + batch], spaces, strict=False)
            ]
            results = await engine.read(ops)
            assert not any(result.error for result in results)

    async def work() -> int:
        await asyncio.gather(*(reader(n) for n in range(tasks)))
        return len(places)

    return work


def frame_round(engine: NativeEngine, frames: list[bytes], count: int) -> Callable[[], Awaitable[int]]:
    """What the storage daemon does with read frames whose bytes the page cache has, or the disk."""
    grants = [(int(TARGET), 5, 9, True)]

    async def work() -> int:
        for body in frames:
            data = buffer(data_plane.read_bytes(body))
            if engine.read_frame(body, data, grants) is None:
                reads = np.zeros(len(body) // data_plane.READ_REQUEST_BYTES, READ_ARRAY)
                items = data_plane.unpack_reads(body)
                for name in ("target", "chunk", "offset", "bytes"):
                    reads[name] = items[name]
                await engine.read_array(reads, data)
                assert not reads["error"].any()
        return count

    return work


async def compare_frames(engine: NativeEngine, bare: Bare, batch: int) -> None:
    draw = Random(7)
    places = [draw.randrange(CHUNKS * 256) * 4096 for _ in range(20_000)]
    requests = [
        ReadRequest(TARGET, 5, 0, 9, ChunkId(InodeId(1), place // MIB).pack(), place % MIB, 4096) for place in places
    ]
    frames = [data_plane.pack_reads(requests[base : base + batch]) for base in range(0, len(places), batch)]
    await read_round(engine, [index * MIB for index in range(CHUNKS)], MIB, 4, 4)()
    ours, ceiling = Figure(), Figure()
    for _ in range(ROUNDS):
        await ceiling.measure(bare.reader(places, 4096, 1))
        await ours.measure(frame_round(engine, frames, len(places)))
    report(f"warm 4 KiB reads, frames of {batch}", "reads/s", ours, ceiling, 1_000_000)


async def compare_writes(engine: NativeEngine, bare: Bare) -> None:
    ours, ceiling = Figure(), Figure()
    for number in range(ROUNDS):
        await ceiling.measure(bare.write)
        await ours.measure(lambda inode=number + 1: write_round(engine, bare.data, inode))  # type: ignore[misc]
        if number:
            for n in range(CHUNKS):
                wanted = Update(
                    TARGET, ChunkId(InodeId(number), n), UpdateKind.REMOVE, MIB, ChunkVersion(2), ChainVersion(1)
                )
                if number > 1:
                    await engine.stage([wanted])
                    await engine.commit([Commit(TARGET, wanted.chunk, ChunkVersion(2), ChainVersion(1))])
    report("durable 1 MiB writes", "MiB/s", ours, ceiling, 1024)


async def compare_reads(folder: Path, engine: NativeEngine, bare: Bare, *, size: int, batch: int, cold: bool) -> None:
    draw = Random(7)
    count = (CHUNKS * MIB // size) if size == MIB else 20_000
    places = [draw.randrange(CHUNKS * MIB // size) * size for _ in range(count)]
    if size == MIB:
        places = [index * MIB for index in range(CHUNKS)]
    ours, ceiling = Figure(), Figure()
    for _ in range(ROUNDS):
        for figure, work in (
            (ceiling, bare.reader(places, size, 4)),
            (ours, read_round(engine, places, size, batch, 4)),
        ):
            if cold:
                drop_cache(folder)
            await figure.measure(work)
    name = f"{'cold' if cold else 'warm'} {size // 1024} KiB reads, {batch} a batch"
    report(name, "reads/s", ours, ceiling, 1024 if size == MIB else 1_000_000)


def test_engine_against_the_bare_disk(tmp_path: Path) -> None:
    async def body() -> None:
        engine = await NativeEngine.open(tmp_path)
        await engine.create_target(TARGET)
        data = buffer(MIB)
        data[:] = Random(1).randbytes(MIB)
        bare = Bare(tmp_path, data)
        await compare_writes(engine, bare)
        for cold in (False, True):
            await compare_reads(tmp_path, engine, bare, size=4096, batch=32, cold=cold)
            await compare_reads(tmp_path, engine, bare, size=MIB, batch=4, cold=cold)
        for batch in (1, 32, 128):
            await compare_frames(engine, bare, batch)
        bare.pool.shutdown()
        await engine.close()

    asyncio.run(body())
