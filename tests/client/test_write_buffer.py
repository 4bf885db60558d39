"""Write-behind: coalescing, order, bounds, errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest

from threefs.client.storage.types import WriteIO
from threefs.client.write_buffer import WriteBack, WriteBuffer
from threefs.common.errors import NoSpace
from threefs.common.ids import ChainId, ChunkId, InodeId
from threefs.common.runtime.real import RealRuntime

pytestmark = pytest.mark.unit

BLOCK = 1 << 16


class Store:
    """Where a buffer writes to; `gate` holds writes back while it is clear."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.writes: list[tuple[int, int]] = []
        self.running = 0
        self.running_most = 0
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def write(self, ios: Sequence[WriteIO]) -> None:
        self.calls += 1
        self.running += 1
        self.running_most = max(self.running_most, self.running)
        await self.gate.wait()
        await asyncio.sleep(0)
        self.running -= 1
        if self.error is not None:
            raise self.error
        for io in ios:
            self.writes.append((io.offset, len(io.data)))
            self.data.extend(bytes(max(io.offset + len(io.data) - len(self.data), 0)))
            self.data[io.offset : io.offset + len(io.data)] = io.data


def make_ios(offset: int, data: memoryview) -> list[WriteIO]:
    return [WriteIO(ChainId(1), ChunkId(InodeId(1), 0), offset, data, 1 << 30)]


def run(body: Callable[[Store, WriteBack, WriteBuffer], Awaitable[None]], *, bytes_max: int = 1 << 20) -> None:
    async def main() -> None:
        runtime = RealRuntime()
        store = Store()
        shared = WriteBack(runtime, store.write, bytes_max=bytes_max, batches_max=2, age_s_max=0.0)
        async with asyncio.timeout(100):
            await body(store, shared, WriteBuffer(shared, make_ios, lambda end, error: None, block_bytes=BLOCK))
        await runtime.close()
        assert shared.bytes_held == 0

    asyncio.run(main())


def test_small_writes_become_one() -> None:
    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        for number in range(16):
            await buffer.write(number * 1000, memoryview(bytes([number]) * 1000), owned=False)
        assert store.writes == []
        await buffer.flush()
        assert store.writes == [(0, 16000)]
        assert store.data == b"".join(bytes([number]) * 1000 for number in range(16))

    run(body)


def test_a_full_block_goes_at_once_and_uncopied() -> None:
    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        data = bytearray(b"a" * BLOCK)
        store.gate.clear()
        await buffer.write(BLOCK, memoryview(data), owned=True)
        assert await buffer.view_of(BLOCK, BLOCK + 3) == b"aaa"
        data[0:3] = b"xyz"  # only to see that it is the same memory
        assert await buffer.view_of(BLOCK, BLOCK + 3) == b"xyz"
        store.gate.set()
        await buffer.flush()
        assert store.writes == [(BLOCK, BLOCK)]

    run(body)


def test_later_write_wins_while_the_earlier_is_on_its_way() -> None:
    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        store.gate.clear()
        await buffer.write(0, memoryview(b"1" * 100), owned=False)
        buffer.seal_all()
        await buffer.write(50, memoryview(b"2" * 100), owned=False)
        buffer.seal_all()
        await buffer.write(75, memoryview(b"3" * 10), owned=False)
        assert await buffer.view_of(76, 80) == b"3333"
        store.gate.set()
        await buffer.flush()
        assert store.data == b"1" * 50 + b"2" * 25 + b"3" * 10 + b"2" * 65
        assert store.running_most == 1

    run(body)


def test_partly_buffered_range_is_stored_before_it_is_read() -> None:
    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        await buffer.write(10, memoryview(b"x" * 10), owned=False)
        assert await buffer.view_of(100, 200) is None
        assert store.writes == []
        assert await buffer.view_of(0, 15) is None
        assert store.writes == [(10, 10)]

    run(body)


def test_memory_is_bounded_while_storage_is_slow() -> None:
    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        store.gate.clear()

        async def write_all() -> None:
            for number in range(16):
                await buffer.write(number * BLOCK + 5, memoryview(b"z" * 100), owned=False)

        writer = asyncio.get_running_loop().create_task(write_all())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not writer.done()
        assert shared.bytes_held <= 4 * BLOCK
        store.gate.set()
        await writer
        await buffer.flush()
        assert len(store.writes) == 16

    run(body, bytes_max=4 * BLOCK)


def test_first_error_is_raised_once() -> None:
    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        store.error = NoSpace("full")
        await buffer.write(0, memoryview(b"x"), owned=False)
        await buffer.write(BLOCK, memoryview(b"y"), owned=False)
        with pytest.raises(NoSpace, match="full"):
            await buffer.flush()
        store.error = None
        await buffer.flush()

    run(body)


def test_aged_blocks_go_unasked() -> None:
    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        await buffer.write(0, memoryview(b"x"), owned=False)
        shared.seal_aged()
        await buffer.settle()
        assert store.writes == [(0, 1)]
        assert not buffer

    run(body)


@pytest.mark.parametrize("seed", range(20))
def test_random_writes_of_many_tasks_equal_a_bytearray(seed: int) -> None:
    """Tasks write to places of their own, so that the outcome is certain whatever their order."""
    draw = random.Random(seed)
    size = 6 * BLOCK

    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        model = bytearray(size)
        store.data = bytearray(size)

        async def work(first: int) -> None:
            for _ in range(40):
                begin = draw.randrange(size // 3000) * 3000 + first
                data = bytes([draw.randrange(256)]) * draw.randrange(1, 1001)
                model[begin : begin + len(data)] = data
                await buffer.write(begin, memoryview(data), owned=draw.random() < 0.5)
                choice = draw.random()
                if choice < 0.1:
                    await buffer.flush()
                elif choice < 0.3:
                    found = await buffer.view_of(begin, begin + len(data))
                    assert (store.data[begin : begin + len(data)] if found is None else found) == data

        await asyncio.gather(*(work(first) for first in (0, 1000, 2000)))
        await buffer.write(BLOCK, memoryview(b"B" * 2 * BLOCK), owned=True)
        model[BLOCK : 3 * BLOCK] = b"B" * 2 * BLOCK
        await buffer.flush()
        assert store.data == model

    run(body, bytes_max=3 * BLOCK)


def test_blocks_of_several_files_go_together() -> None:
    async def body(store: Store, shared: WriteBack, buffer: WriteBuffer) -> None:
        other = WriteBuffer(shared, make_ios, lambda end, error: None, block_bytes=BLOCK)
        for number in range(5):
            await buffer.write(2 * number * BLOCK, memoryview(b"a" * 10), owned=False)
            await other.write((2 * number + 1) * BLOCK, memoryview(b"b" * 10), owned=False)
        await asyncio.gather(buffer.flush(), other.flush())
        assert len(store.writes) == 10
        assert store.calls == 1

    run(body)
