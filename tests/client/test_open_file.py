"""Open files of two clients on one real metadata service: lengths, times, truncation, sessions, failed writes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tests.mount.memory_cluster import MemoryStorage, start_meta

from threefs.client.file import FileOptions, FileTable, OpenFile
from threefs.client.meta.client import MetaClient
from threefs.client.meta.scan import scan_sessions
from threefs.common.errors import FileError, NoSpace, Timeout
from threefs.common.files import Inode
from threefs.common.ids import ROOT_INODE, InodeId, SessionId
from threefs.common.runtime.real import RealRuntime

pytestmark = pytest.mark.unit

CHUNK = 64 << 10
RW = os.O_RDWR | os.O_CREAT


@dataclass
class World:
    meta: MetaClient
    storage: MemoryStorage
    ours: FileTable
    theirs: FileTable


def run(body: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        runtime = RealRuntime()
        storage = MemoryStorage()
        meta, _ = await start_meta(runtime, storage, chunk_bytes=CHUNK)
        options = FileOptions(length_s_max=0.0)
        async with asyncio.timeout(100):
            await body(
                World(
                    meta,
                    storage,
                    FileTable(runtime, meta, storage, options),
                    FileTable(runtime, meta, storage, options),
                )
            )
        await runtime.close()

    asyncio.run(main())


async def content(file: OpenFile, size: int = 1 << 20, offset: int = 0) -> bytes:
    memory = bytearray(size)
    return bytes(memory[: await file.pread(offset, [memoryview(memory)])])


async def write(file: OpenFile, offset: int, data: bytes) -> None:
    await file.pwrite(offset, memoryview(data))


def test_length_is_known_elsewhere_after_fsync() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        await write(file, 3 * CHUNK - 5, b"0123456789")
        assert file.attributes().length == 3 * CHUNK + 5
        other = await world.theirs.open(file.inode, os.O_RDONLY)
        assert other.attributes().length == 0
        await file.fsync()
        assert await content(other) == bytes(3 * CHUNK - 5) + b"0123456789"
        assert other.attributes().mtime_us == file.attributes().mtime_us
        await file.close()
        await other.close()

    run(body)


def test_two_writers_both_count() -> None:
    async def body(world: World) -> None:
        one = await world.ours.create(ROOT_INODE, "f", RW)
        two = await world.theirs.open(one.inode, os.O_RDWR)
        await write(one, 0, b"a" * 10)
        await write(two, 20, b"b" * 10)
        await two.close()
        await one.close()
        assert (await world.meta.stat(one.inode)).length == 30
        again = await world.ours.open(one.inode, os.O_RDONLY)
        assert await content(again) == b"a" * 10 + bytes(10) + b"b" * 10

    run(body)


def test_hint_from_before_a_truncation_does_not_count() -> None:
    async def body(world: World) -> None:
        one = await world.ours.create(ROOT_INODE, "f", RW)
        await write(one, 0, b"a" * 5000)
        await one.fsync()
        two = await world.theirs.open(one.inode, os.O_RDWR)
        await two.truncate(100)
        await one.close()
        assert (await world.meta.stat(one.inode)).length == 100
        await write(two, 50, b"b" * 100)
        await two.close()
        assert (await world.meta.stat(one.inode)).length == 150

    run(body)


def test_truncate_of_buffered_bytes() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        await write(file, 0, b"a" * 1000)
        await file.truncate(10)
        await file.truncate(20)
        assert await content(file) == b"a" * 10 + bytes(10)
        await write(file, 30, b"z")
        assert await content(file) == b"a" * 10 + bytes(20) + b"z"
        await file.close()
        assert (await world.meta.stat(file.inode)).length == 31

    run(body)


def test_open_with_truncation_of_a_file_being_written() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        await write(file, 0, b"a" * 1000)
        again = await world.ours.create(ROOT_INODE, "f", RW | os.O_TRUNC)
        assert not again.created
        assert again.state is file.state
        assert again.attributes().length == 0
        await write(again, 0, b"new")
        await file.close()
        await again.close()
        reader = await world.theirs.open(file.inode, os.O_RDONLY)
        assert await content(reader) == b"new"

    run(body)


def test_append_goes_to_the_end() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        assert [await file.append(memoryview(b"abc")) for _ in range(3)] == [0, 3, 6]
        assert await content(file) == b"abcabcabc"
        await file.close()

    run(body)


def test_failed_write_is_told_and_the_length_measured() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        await write(file, 0, b"a" * 100)
        await file.fsync()
        world.storage.error = NoSpace("target 1 is full")
        await write(file, 100, b"b" * 100)
        with pytest.raises(NoSpace):
            await file.fsync()
        world.storage.error = None
        assert file.attributes().length == 100
        await write(file, 100, b"c" * 10)
        await file.close()
        assert (await world.meta.stat(file.inode)).length == 110

    run(body)


def test_close_tells_of_a_failed_write_and_still_ends_the_session() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        world.storage.error = NoSpace("target 1 is full")
        await write(file, 0, b"b" * 100)
        with pytest.raises(NoSpace):
            await file.close()
        await file.close()
        await world.meta.unlink(ROOT_INODE, "f")
        with pytest.raises(FileError):
            await world.meta.open(file.inode, os.O_RDWR)  # a session would keep it open-able

    run(body)


def test_a_session_is_closed_even_if_meta_answers_only_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(world: World) -> None:
        options = FileOptions(write_back_s=0.01, report_s=0.02)
        table = FileTable(RealRuntime(), world.meta, world.storage, options)
        close, failures = world.meta.close, [Timeout("no answer"), Timeout("no answer"), Timeout("no answer")]

        async def close_or_fail(*arguments: Any) -> Inode:
            if failures:
                raise failures.pop()
            return await close(*arguments)

        monkeypatch.setattr(world.meta, "close", close_or_fail)
        file = await table.create(ROOT_INODE, "f", RW)
        await write(file, 0, b"data")
        with pytest.raises(Timeout):
            await file.flush()
        with pytest.raises(Timeout):
            await file.close()
        assert len([record async for record in scan_sessions(world.meta)]) == 1
        table.start()
        while [record async for record in scan_sessions(world.meta)]:  # noqa: ASYNC110 - nobody else is told
            await asyncio.sleep(0.005)
        assert not failures
        await table.runtime.close()

    run(body)


def test_pinned_reader_keeps_a_file_without_names() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        await write(file, 0, b"data")
        await file.close()
        reader = await world.ours.open(file.inode, os.O_RDONLY)
        assert world.ours.unpinned(file.inode) == [reader]
        await reader.pin()
        assert not world.ours.has_unpinned
        await world.meta.unlink(ROOT_INODE, "f")
        second = await world.ours.open(file.inode, os.O_RDONLY)
        assert not world.ours.has_unpinned  # nothing but a session could keep it
        await reader.close()
        assert await content(second) == b"data"
        await second.close()

    run(body)


def test_descriptor_refuses_what_it_was_not_opened_for() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(FileError) as caught:
            await content(file)
        assert caught.value.errno == errno.EBADF
        await file.close()
        reader = await world.ours.open(file.inode, os.O_RDONLY)
        with pytest.raises(FileError) as caught:
            await write(reader, 0, b"x")
        assert caught.value.errno == errno.EBADF
        await reader.close()
        with pytest.raises(FileError):
            await content(reader)

    run(body)


def test_offsets_that_chunk_numbers_cannot_reach() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        for attempt in (write(file, CHUNK << 32, b"x"), file.truncate((CHUNK << 32) + 1)):
            with pytest.raises(FileError) as caught:
                await attempt  # type: ignore[misc]
            assert caught.value.errno == errno.EFBIG
        await file.close()

    run(body)


def test_lengths_are_reported_now_and_then() -> None:
    async def body(world: World) -> None:
        table = FileTable(RealRuntime(), world.meta, world.storage, FileOptions(write_back_s=0.01, report_s=0.02))
        table.start()
        file = await table.create(ROOT_INODE, "f", RW)
        await write(file, 0, b"x" * 1234)
        while (await world.meta.stat(file.inode)).length != 1234:  # noqa: ASYNC110 - another process would have to tell
            await asyncio.sleep(0.005)
        await file.close()
        await table.runtime.close()

    run(body)


def test_sequential_reads_are_fetched_ahead_and_never_stale() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        data = bytearray(os.urandom(5_000_000))
        await write(file, 0, data)
        await file.fsync()
        reader = await world.ours.open(file.inode, os.O_RDONLY)
        found = b""
        for number in range(10):
            found += await content(reader, 300_000, number * 300_000)
        before = world.storage.reads
        found += await content(reader, 300_000, 3_000_000)
        assert world.storage.reads == before  # it was there
        assert found == data[:3_300_000]
        await write(file, 3_400_000, b"changed")
        data[3_400_000:3_400_007] = b"changed"
        assert await content(reader, 2_000_000, 3_300_000) == data[3_300_000:]
        assert await content(reader, 1000, 5_000_000) == b""
        await reader.close()
        await file.close()

    run(body)


def test_flush_ends_the_session_and_a_later_write_begins_another() -> None:
    async def body(world: World) -> None:
        file = await world.ours.create(ROOT_INODE, "f", RW)
        await write(file, 0, b"first")
        await file.flush()
        assert (await world.meta.stat(file.inode)).length == 5
        assert world.ours.unpinned(file.inode) == [file]
        await asyncio.gather(write(file, 5, b"second"), write(file, 11, b"third"))
        assert not world.ours.has_unpinned
        await world.meta.unlink(ROOT_INODE, "f")
        assert await content(file) == b"firstsecondthird"
        await file.fsync()
        assert (await world.meta.stat(file.inode)).nlink == 0
        await file.close()
        assert (await world.meta.stat(file.inode)).length == 16

    run(body)


def test_sessions_of_closed_files_end_together() -> None:
    async def body(world: World) -> None:
        requests: list[int] = []
        end_sessions = world.meta.end_sessions

        async def counted(sessions: Sequence[tuple[InodeId, SessionId]]) -> None:
            requests.append(len(sessions))
            await end_sessions(sessions)

        world.meta.end_sessions = counted  # type: ignore[method-assign]
        over = asyncio.Event()  # the time that sessions wait for others
        world.ours.runtime.sleep = lambda _: over.wait()  # type: ignore[method-assign,assignment,return-value]
        files = [await world.ours.create(ROOT_INODE, f"f{number}", RW) for number in range(20)]
        await write(files[0], 0, b"told by the close itself")
        for file in files:
            await file.close(wait=False)
        assert (await world.theirs.open(files[0].inode, os.O_RDONLY)).attributes().length == 24
        assert requests == []
        over.set()
        await world.ours.end_sessions()
        assert requests == [20]
        left = [session async for session in scan_sessions(world.meta)]
        assert left == []

    run(body)
