"""The native engine against real trouble: full disks, damaged files, a second process, a failing device."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from tests.native.recorder import power_loss

from threefs.common.errors import ChecksumMismatch, Conflict, Corrupt, NoSpace
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, InodeId, TargetId
from threefs.native.buffers import buffer
from threefs.native.checksum import crc32c
from threefs.proto import data_plane
from threefs.storage.engine import Commit, DiskFailed, FrameAnswer, ReadOp, Update, UpdateKind, UpdateResult, unit_bytes
from threefs.storage.native_engine import EngineOptions, NativeEngine

pytestmark = pytest.mark.native

TARGET = TargetId(1)
MIB = 1 << 20


@asynccontextmanager
async def opened(folder: Path, **options: object) -> AsyncIterator[NativeEngine]:
    engine = await NativeEngine.open(folder, EngineOptions(**options))  # type: ignore[arg-type]
    try:
        await engine.create_target(TARGET)
        yield engine
    finally:
        await engine.close()


def chunk(number: int) -> ChunkId:
    return ChunkId(InodeId(1), number)


async def stage(engine: NativeEngine, number: int, data: bytes, *, version: int = 1, offset: int = 0) -> UpdateResult:
    wanted = Update(
        TARGET,
        chunk(number),
        UpdateKind.WRITE,
        MIB,
        ChunkVersion(version),
        ChainVersion(1),
        offset,
        0,
        memoryview(data),
    )
    [result] = await engine.stage([wanted])
    return result


async def commit(engine: NativeEngine, number: int, *, version: int = 1) -> None:
    [error] = await engine.commit([Commit(TARGET, chunk(number), ChunkVersion(version), ChainVersion(1))])
    assert error is None


async def put(engine: NativeEngine, number: int, data: bytes, *, version: int = 1, offset: int = 0) -> None:
    result = await stage(engine, number, data, version=version, offset=offset)
    assert result.error is None, result.error
    await commit(engine, number, version=version)


async def remove(engine: NativeEngine, number: int, *, version: int = 2) -> None:
    wanted = Update(TARGET, chunk(number), UpdateKind.REMOVE, MIB, ChunkVersion(version), ChainVersion(1))
    [result] = await engine.stage([wanted])
    assert result.error is None, result.error
    await commit(engine, number, version=version)


def noise(length: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(length)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))
        os.fsync(file.fileno())


@pytest.mark.parametrize("plain_io", [False, True], ids=["io_uring", "plain"])
def test_a_flipped_bit_is_found_where_it_is_read_and_nowhere_else(tmp_path: Path, plain_io: bool) -> None:
    async def body() -> None:
        async with opened(tmp_path, plain_io=plain_io) as engine:
            assert engine.io == ("plain" if plain_io else "io_uring")
            data = noise(MIB)
            await put(engine, 0, data)
            flip(tmp_path / "blocks-1024k", 9 * unit_bytes(MIB) + 100)
            space = memoryview(bytearray(4096))
            [good] = await engine.read([ReadOp(TARGET, chunk(0), 8 * 4096, space)])
            assert good.error is None
            assert bytes(space) == data[8 * 4096 : 9 * 4096]
            [bad] = await engine.read([ReadOp(TARGET, chunk(0), 9 * 4096 + 4000, space)])
            assert isinstance(bad.error, ChecksumMismatch)
            assert "unit 9" in str(bad.error)
            assert bad.length == 0
            assert isinstance(await engine.verify(TARGET, chunk(0)), ChecksumMismatch)
            partial = await stage(engine, 0, b"xyz", version=2, offset=5)
            assert isinstance(partial.error, ChecksumMismatch), "a copy must not bless damaged bytes"
            await put(engine, 0, noise(MIB, 2), version=2)
            assert await engine.verify(TARGET, chunk(0)) is None
            assert engine.audit() == ""

    asyncio.run(body())


def test_overwriting_the_damaged_unit_heals_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as engine:
            data = bytearray(noise(MIB))
            await put(engine, 0, bytes(data))
            flip(tmp_path / "blocks-1024k", 3 * 4096)
            await put(engine, 0, noise(4096, 5), version=2, offset=3 * 4096)
            data[3 * 4096 : 4 * 4096] = noise(4096, 5)
            space = memoryview(bytearray(MIB))
            [result] = await engine.read([ReadOp(TARGET, chunk(0), 0, space)])
            assert result.error is None
            assert space == data

    asyncio.run(body())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_refuses_writes_harms_nothing_and_recovers(small_disk: Path) -> None:
    async def body() -> None:
        async with opened(small_disk, flush_delay_s=0.01) as engine:
            written: list[int] = []
            while True:
                result = await stage(engine, len(written), noise(MIB, len(written)))
                if result.error:
                    break
                await commit(engine, len(written))
                written.append(len(written))
            assert isinstance(result.error, NoSpace)
            assert len(written) > 50
            await engine.check()
            for number in written:
                assert await engine.verify(TARGET, chunk(number)) is None
            for number in written[:4]:
                await remove(engine, number)
            await engine.sync()
            for number in written[:4]:
                await put(engine, 1000 + number, noise(MIB))
            assert engine.audit() == ""
        async with opened(small_disk) as engine:
            assert engine.recovery.chunks == len(written)

    asyncio.run(body())


def test_space_goes_from_one_block_size_to_another(small_disk: Path) -> None:
    """96 MiB are full of 64 KiB blocks, then of 4 MiB blocks, then of 64 KiB blocks again."""

    async def fill(engine: NativeEngine, chunk_bytes: int, first: int) -> int:
        data = memoryview(noise(chunk_bytes))
        for number in range(first, first + 2000):
            wanted = Update(
                TARGET, chunk(number), UpdateKind.WRITE, chunk_bytes, ChunkVersion(1), ChainVersion(1), data=data
            )
            [result] = await engine.stage([wanted])
            if result.error:
                assert isinstance(result.error, NoSpace)
                break
            await commit(engine, number)
        for gone in range(first, number):
            [removal] = await engine.stage(
                [Update(TARGET, chunk(gone), UpdateKind.REMOVE, chunk_bytes, ChunkVersion(2), ChainVersion(1))]
            )
            assert removal.error is None
            await commit(engine, gone, version=2)
        await engine.sync()
        assert engine.audit() == ""
        return (number - first) * chunk_bytes

    async def body() -> None:
        filled = []
        for round, chunk_bytes in enumerate((65536, 4 * MIB, 65536)):
            async with opened(small_disk, flush_delay_s=0.01) as engine:
                filled.append(await fill(engine, chunk_bytes, round * 10_000))
                assert (await engine.space()).used_bytes == 0
        assert min(filled) >= 48 * MIB, filled

    asyncio.run(body())


def test_a_disk_filled_by_others_leaves_room_for_removals(small_disk: Path) -> None:
    async def body() -> None:
        async with opened(small_disk, flush_delay_s=0.01) as engine:
            for number in range(8):
                await put(engine, number, noise(MIB, number))
            await engine.sync()
            with (small_disk / "stranger").open("wb", buffering=0) as stranger:
                try:
                    while True:
                        stranger.write(bytes(4096))
                except OSError:
                    pass
            outcomes = [await stage(engine, 100 + n, noise(500)) for n in range(40)]
            for number in range(8):
                await remove(engine, number)
            await engine.sync()
            assert engine.audit() == ""
            assert isinstance(outcomes[-1].error, NoSpace)
            (small_disk / "stranger").unlink()
            await put(engine, 200, noise(500))
            assert (await engine.space()).chunk_count == 1

    asyncio.run(body())


def test_creates_are_refused_at_the_configured_use(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path, capacity_bytes=20 * MIB, use_max=0.5) as engine:
            for number in range(10):
                await put(engine, number, noise(MIB))
            assert isinstance((await stage(engine, 10, noise(MIB))).error, NoSpace)
            await put(engine, 0, noise(MIB, 2), version=2)
            space = await engine.space()
            assert space.capacity_bytes == 20 * MIB
            assert space.used_bytes + space.free_bytes == 20 * MIB

    asyncio.run(body())


def test_blocks_of_removed_chunks_are_used_again(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as engine:
            for version in range(1, 30):
                await put(engine, 0, noise(MIB, version), version=version)
            await engine.sync()
            assert (await engine.space()).used_bytes == MIB
            assert (tmp_path / "blocks-1024k").stat().st_size == 64 * MIB

    asyncio.run(body())


def test_the_second_owner_learns_who_is_the_first(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from threefs.storage.native_engine import NativeEngine\n"
        "async def main():\n"
        "    engine = await NativeEngine.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(Conflict, match=rf"process {owner.pid} on "):
            asyncio.run(NativeEngine.open(tmp_path))
        owner.kill()
    asyncio.run(_open_and_close(tmp_path))


async def _open_and_close(folder: Path) -> None:
    await (await NativeEngine.open(folder)).close()


def test_damaged_records_are_not_trusted(tmp_path: Path) -> None:
    async def write() -> None:
        async with opened(tmp_path) as engine:
            await put(engine, 0, noise(5000))

    async def read() -> None:
        async with opened(tmp_path) as engine:
            [result] = await engine.read([ReadOp(TARGET, chunk(0), 0, memoryview(bytearray(100)))])
            assert isinstance(result.error, Corrupt)
            assert "damaged" in str(result.error)

    asyncio.run(write())
    raw = (tmp_path / "data.mdb").read_bytes()
    crc = crc32c(noise(5000)[:4096]).to_bytes(4, "little")
    damaged = raw.replace(crc, bytes(4))
    assert damaged != raw
    (tmp_path / "data.mdb").write_bytes(damaged)
    asyncio.run(read())


def test_a_store_without_its_head_does_not_open(tmp_path: Path) -> None:
    asyncio.run(_open_and_close(tmp_path))
    with (tmp_path / "data.mdb").open("r+b") as file:
        file.write(bytes(8192))
    with pytest.raises(Corrupt, match="resync"):
        asyncio.run(NativeEngine.open(tmp_path))


def test_a_folder_of_another_format_does_not_open(tmp_path: Path) -> None:
    async def main() -> None:
        await (await NativeEngine.open(tmp_path)).close()

    asyncio.run(main())
    records = tmp_path / "data.mdb"
    raw = records.read_bytes()
    assert b"format\x02\0\0\0" in raw
    records.write_bytes(raw.replace(b"format\x02\0\0\0", b"format\x01\0\0\0"))
    with pytest.raises(Corrupt, match="in another format: move the folder away"):
        asyncio.run(main())


def test_a_missing_block_file_does_not_open(tmp_path: Path) -> None:
    async def write() -> None:
        async with opened(tmp_path) as engine:
            await put(engine, 0, noise(5000))

    asyncio.run(write())
    (tmp_path / "blocks-64k").unlink()
    with pytest.raises(Corrupt, match="shorter than its records say"):
        asyncio.run(NativeEngine.open(tmp_path))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match="No such file"):
        asyncio.run(NativeEngine.open(tmp_path / "absent"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskFailed, match="Not a directory"):
        asyncio.run(NativeEngine.open(tmp_path / "file"))


def test_a_cancelled_caller_leaves_its_operation_running(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as engine:
            task = asyncio.create_task(stage(engine, 0, noise(MIB)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await engine.sync()
            await commit(engine, 0)
            assert await engine.verify(TARGET, chunk(0)) is None
            late = asyncio.create_task(stage(engine, 1, noise(MIB)))
            await asyncio.sleep(0)
            late.cancel()
        with pytest.raises(DiskFailed, match="closed"):
            await engine.space()
        async with opened(tmp_path) as engine:
            assert (engine.recovery.chunks, engine.recovery.pending) == (1, 1)

    asyncio.run(body())


FAILING = """
import asyncio, sys
from pathlib import Path
from threefs.common.ids import *
from threefs.storage.engine import *
from threefs.storage.native_engine import EngineOptions, NativeEngine

async def main():
    engine = await NativeEngine.open(Path(sys.argv[1]), EngineOptions(plain_io=True))
    await engine.create_target(TargetId(1))
    for number in range(20):
        wanted = Update(TargetId(1), ChunkId(1, number), UpdateKind.WRITE, 65536, 1, 1, data=memoryview(bytes(9000)))
        await engine.stage([wanted])

try:
    asyncio.run(main())
except DiskFailed as error:
    print(error)
"""


@pytest.mark.parametrize("call", ["fdatasync:9:5", "write:30:5"])
def test_a_device_error_fails_the_disk(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, call: str) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    root = tmp_path / "disk"
    root.mkdir()
    library = power_loss.build(tmp_path)
    run = power_loss.record(
        script, [str(root)], root=root, log=tmp_path / "log", library=library, environment={"RECORDER_FAIL": call}
    )
    assert run.returncode == 0, run.stderr
    assert "Input/output error" in run.stdout


def frame_of(reads: list[tuple[int, int, int]], *, flags: int = 0, version: int = 9) -> bytes:
    """A read frame of (chunk number, offset, bytes)."""
    return data_plane.pack_reads(
        [
            data_plane.ReadRequest(TARGET, 5, flags, version, chunk(number).pack(), offset, length)
            for number, offset, length in reads
        ]
    )


def drop_from_page_cache(folder: Path) -> None:
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_frame_is_answered_at_once_or_not_at_all(tmp_path: Path) -> None:
    grant = [(int(TARGET), 5, 9, False)]

    async def body() -> None:
        async with opened(tmp_path) as engine:
            contents = {number: noise(20_000 + number, number) for number in range(70)}
            for number, data in contents.items():
                await put(engine, number, data)
            draw = Random(3)
            reads = [(number % 72, draw.randrange(21_000), draw.randrange(1, 9000)) for number in range(72)]
            data = buffer(sum(length for _, _, length in reads))
            frame = frame_of(reads)
            assert data_plane.read_keys(frame) == {(TARGET, 5, 9)}
            assert data_plane.read_bytes(frame) == len(data)

            def check(answer: FrameAnswer) -> None:
                replies, messages = data_plane.unpack_read_replies(bytes(answer.replies), len(reads), answer.data_bytes)
                at = 0
                for (number, offset, length), reply in zip(reads, data_plane.read_replies(replies), strict=True):
                    expected = contents.get(number, b"")[offset : offset + length]
                    assert data[at : at + reply.bytes] == expected
                    assert (reply.status, reply.crc32c) == (0, crc32c(expected))
                    assert reply.version == (number in contents)
                    at += reply.bytes
                assert at == answer.data_bytes
                assert not any(messages)

            drop_from_page_cache(tmp_path)
            answer = engine.read_frame(frame, data, grant)
            if answer is not None:  # a file system that lives in memory drops nothing
                check(answer)

            async def cached(
                frame: bytes, numbers: Iterable[int], grants: Sequence[tuple[int, int, int, bool]]
            ) -> FrameAnswer | None:
                """The answer once the page cache has it: a page that carries the kernel's mark for more read-ahead
                counts as absent once, and one that the kernel took back must be read again."""
                for _ in range(100):
                    for number in numbers:
                        await engine.read([ReadOp(TARGET, chunk(number), 0, memoryview(bytearray(30_000)))])
                    if (answer := engine.read_frame(frame, data, grants)) is not None:
                        return answer
                return None

            answer = await cached(frame, contents, grant)
            assert answer is not None
            check(answer)

            assert engine.read_frame(frame_of([(0, 0, 9)], version=8), data, grant) is None
            assert engine.read_frame(frame_of([(0, 0, 9)]), data[:8], grant) is None
            await stage(engine, 0, b"pending", version=2)
            one, relaxed = frame_of([(0, 0, 9)]), frame_of([(0, 0, 9)], flags=data_plane.READ_RELAXED)
            assert await cached(one, [0], grant) is None
            assert await cached(relaxed, [0], grant) is not None
            assert await cached(one, [0], [(TargetId(9), 1, 1, True), (TARGET, 5, 9, True)]) is not None
            assert bytes(data[:9]) == contents[0][:9]
            flip(tmp_path / "blocks-64k", 65536 + 100)
            assert engine.read_frame(frame_of([(1, 0, 9)]), data, grant) is None

    asyncio.run(body())


def test_memory_does_not_grow_with_the_number_of_chunks(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path, cache_chunks=64) as engine:
            data = memoryview(noise(4096))
            for base in range(0, 3000, 500):
                wanted = [
                    Update(TARGET, chunk(n), UpdateKind.WRITE, 65536, ChunkVersion(1), ChainVersion(1), data=data)
                    for n in range(base, base + 500)
                ]
                assert not any(result.error for result in await engine.stage(wanted))
                await engine.commit([Commit(TARGET, u.chunk, ChunkVersion(1), ChainVersion(1)) for u in wanted])
            await engine.sync()
            assert engine.audit() == ""
            space = memoryview(bytearray(4096))
            for n in range(0, 3000, 7):
                [result] = await engine.read([ReadOp(TARGET, chunk(n), 0, space)])
                assert result.error is None
                assert space == data

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(body())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000
