"""Write-behind: small and sequential writes of a file become block-sized storage writes, many at a time.

`OpenInode` owns one `WriteBuffer` a file; all of a process share one `WriteBack`, which bounds the memory and sends
blocks of many files together. The rule kept here: of two writes that touch the same byte, the later one reaches
storage later. A block is *open* while writes may still extend it, then *sealed*: it is never changed again, and goes
to storage when no older block of the same place is on its way. Nothing is lost by waiting: `flush` seals everything
and returns when storage has it on stable storage.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

from threefs.client.storage.types import WriteIO
from threefs.common.errors import InternalError, ThreefsError
from threefs.common.runtime.interface import Runtime
from threefs.native.buffers import buffer

FIRST_BYTES = 64 << 10  # what a block that begins with a small write takes; it grows to its full size once it must
BATCH_BYTES = 4 << 20  # sent together
BATCH_BLOCKS = 64

Write = Callable[[Sequence[WriteIO]], Awaitable[None]]  # `StorageClient.write`
MakeIos = Callable[[int, memoryview], list[WriteIO]]  # from an offset in the file and its bytes
Stored = Callable[[int, ThreefsError | None], None]  # told the end of a block that was stored, or why it was not


class WriteBack:
    """What all files of one process share: bytes held, batches in flight, age of an open block."""

    def __init__(self, runtime: Runtime, write: Write, *, bytes_max: int, batches_max: int, age_s_max: float) -> None:
        self.runtime = runtime
        self.bytes_max = bytes_max
        self.age_s_max = age_s_max
        self.bytes_held = 0  # <= bytes_max, but for one block that is larger than that by itself
        self._write = write
        self._batches_left = batches_max
        self._ready: deque[Block] = deque()  # sealed, and nothing older is in their way
        self._sending_soon = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open: dict[Block, None] = {}  # oldest first

    async def reserve(self, size: int) -> None:
        """Waits until `size` more bytes may be held; sends the oldest open block on its way while there is no room."""
        while self.bytes_held and self.bytes_held + size > self.bytes_max:
            self.seal_oldest()
            room = asyncio.get_running_loop().create_future()
            self._waiting.append(room)
            await room
        self.bytes_held += size

    def release(self, size: int) -> None:
        self.bytes_held -= size
        assert self.bytes_held >= 0, f"{self.bytes_held} bytes held"
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def seal_oldest(self) -> None:
        if self._open:
            block = next(iter(self._open))
            block.owner.seal(block)

    def seal_aged(self) -> None:
        """Called now and then: what nobody has extended for a while goes to storage unasked."""
        latest = self.runtime.now() - self.age_s_max
        while self._open and next(iter(self._open)).born_s <= latest:
            self.seal_oldest()

    def note_open(self, block: Block) -> None:
        self._open[block] = None

    def note_sealed(self, block: Block) -> None:
        self._open.pop(block, None)

    def submit(self, block: Block) -> None:
        """The block goes with the next batch. All that become ready in one turn of the loop go together."""
        self._ready.append(block)
        if not self._sending_soon:
            self._sending_soon = True
            asyncio.get_running_loop().call_soon(self._send_ready)

    def _send_ready(self) -> None:
        self._sending_soon = False
        while self._ready and self._batches_left:
            batch: list[Block] = []
            total = 0
            while self._ready and len(batch) < BATCH_BLOCKS and total + self._ready[0].size <= BATCH_BYTES:
                batch.append(self._ready.popleft())
                total += batch[-1].size
            self._batches_left -= 1
            self.runtime.spawn(self._send(batch), name="write back")

    async def _send(self, batch: list[Block]) -> None:
        ios = [block.owner.make_ios(block.begin, block.data()) for block in batch]
        failed: ThreefsError | None = None
        try:
            await self._write([io for group in ios for io in group])
        except ThreefsError as exc:
            failed = exc
        except BaseException:
            failed = InternalError("writing behind was broken off")
            raise
        finally:
            self._batches_left += 1
            for block, group in zip(batch, ios, strict=True):
                block.owner.finish(block, next((io.error for io in group if io.error is not None), failed))
            self._send_ready()


class Block:
    """Dirty bytes [begin, end) of one file, within one block of it."""

    __slots__ = ("begin", "born_s", "done", "end", "held", "memory", "number", "owner")

    def __init__(self, owner: WriteBuffer, number: int, begin: int, memory: memoryview, born_s: float) -> None:
        self.owner = owner
        self.number = number
        self.begin = begin
        self.end = begin
        self.memory = memory  # memory[i] is the file's byte begin + i
        self.held = len(memory)  # bytes reserved for it
        self.born_s = born_s
        self.done: asyncio.Future[None] | None = None  # set when sealed; finished when stored or failed

    @property
    def size(self) -> int:
        return self.end - self.begin

    def data(self) -> memoryview:
        return self.memory[: self.size]


class WriteBuffer:
    """The dirty blocks of one file, in the order in which they were begun."""

    def __init__(self, shared: WriteBack, make_ios: MakeIos, stored: Stored, *, block_bytes: int) -> None:
        assert block_bytes <= BATCH_BYTES, f"blocks of {block_bytes} bytes do not fit a batch"
        self.make_ios = make_ios
        self._shared = shared
        self._stored = stored
        self._block_bytes = block_bytes
        self._open: dict[int, Block] = {}
        self._sealed: dict[int, list[Block]] = {}  # of one number: oldest first, and only that one is sent
        self._errors: list[ThreefsError] = []

    def __bool__(self) -> bool:
        """True while anything has not reached storage."""
        return bool(self._open or self._sealed)

    def end(self) -> int:
        """End of the furthest dirty byte, 0 if there is none."""
        return max((block.end for block in self._blocks()), default=0)

    def _blocks(self) -> Iterator[Block]:
        for sealed in self._sealed.values():
            yield from sealed
        yield from self._open.values()

    async def write(self, offset: int, data: memoryview, *, owned: bool) -> None:
        """Takes the bytes over and returns when there is room for them. `owned`: the caller never changes `data`
        again, so a piece that is a whole block needs no copy."""
        start = 0
        while start < len(data):
            number, within = divmod(offset + start, self._block_bytes)
            piece = data[start : start + self._block_bytes - within]
            if len(piece) == self._block_bytes and owned:
                await self._adopt(number, offset + start, piece)
            else:
                await self._append(number, offset + start, piece)
            start += len(piece)

    async def _adopt(self, number: int, begin: int, data: memoryview) -> None:
        await self._shared.reserve(len(data))
        if number in self._open:
            self.seal(self._open[number])
        block = Block(self, number, begin, data, self._shared.runtime.now())
        block.end = begin + len(data)
        self._open[number] = block
        self.seal(block)

    async def _append(self, number: int, begin: int, data: memoryview) -> None:
        block = await self._room_at(number, begin, begin + len(data))
        first = begin - block.begin
        block.memory[first : first + len(data)] = data
        block.end = max(block.end, begin + len(data))
        if block.end == (number + 1) * self._block_bytes and block.begin == number * self._block_bytes:
            self.seal(block)  # full: nothing can make it a better write

    async def _room_at(self, number: int, begin: int, end: int) -> Block:
        """The open block to which [begin, end) can be put, grown or made. Nothing is awaited after the last check."""
        while True:
            block = self._open.get(number)
            if block is not None and not block.begin <= begin <= block.end:
                self.seal(block)
                block = None
            if block is not None and end - block.begin <= len(block.memory):
                return block
            full = (number + 1) * self._block_bytes - (block.begin if block else begin)
            size = min(FIRST_BYTES, full) if block is None and end - begin <= FIRST_BYTES else full
            await self._shared.reserve(size)
            if self._open.get(number) is not block or (block is not None and block.done is not None):
                self._shared.release(size)  # somebody else was faster: look again
                continue
            return self._make(number, begin, size) if block is None else self._grow(block, size)

    def _make(self, number: int, begin: int, size: int) -> Block:
        block = Block(self, number, begin, buffer(size), self._shared.runtime.now())
        self._open[number] = block
        self._shared.note_open(block)
        return block

    def _grow(self, block: Block, size: int) -> Block:
        memory = buffer(size)
        memory[: block.size] = block.data()
        block.memory = memory
        self._shared.release(block.held)
        block.held = size
        return block

    def seal(self, block: Block) -> None:
        """Sends an open block on its way."""
        assert block.done is None, f"block {block.number} is sealed twice"
        del self._open[block.number]
        self._shared.note_sealed(block)
        block.done = asyncio.get_running_loop().create_future()
        queue = self._sealed.setdefault(block.number, [])
        queue.append(block)
        if len(queue) == 1:
            self._shared.submit(block)

    def finish(self, block: Block, error: ThreefsError | None) -> None:
        """Called by `WriteBack`: the block was stored, or is lost because of `error`."""
        assert block.done is not None, f"block {block.number} was never sealed"
        queue = self._sealed[block.number]
        assert queue.pop(0) is block, f"block {block.number} was overtaken"
        if queue:
            self._shared.submit(queue[0])
        else:
            del self._sealed[block.number]
        self._shared.release(block.held)
        if error is not None:
            self._errors.append(error)
        self._stored(block.end, error)
        block.done.set_result(None)

    def seal_all(self) -> None:
        for block in list(self._open.values()):
            self.seal(block)

    async def settle(self) -> None:
        """Returns when everything that was written before the call is stored or has failed."""
        self.seal_all()
        await self._settle(list(self._blocks()))

    async def flush(self) -> None:
        """`settle`, then raises the first error since the last flush (what failed is not kept)."""
        await self.settle()
        if self._errors:
            first, self._errors = self._errors[0], []
            raise first

    async def _settle(self, blocks: list[Block]) -> None:
        for block in blocks:
            assert block.done is not None, f"block {block.number} is still open"
            await asyncio.shield(block.done)

    async def view_of(self, begin: int, end: int) -> memoryview | None:
        """The bytes [begin, end) if one dirty block has them all; else None, after whatever overlaps them has been
        stored, so that storage has the newest."""
        touched = [block for block in self._blocks() if block.begin < end and begin < block.end]
        if not touched:
            return None
        newest = touched[-1]
        if newest.begin <= begin and end <= newest.end:
            return newest.memory[begin - newest.begin : end - newest.begin]
        for block in touched:
            if block.done is None:
                self.seal(block)
        await self._settle(touched)
        return None
