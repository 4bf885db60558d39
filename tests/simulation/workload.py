"""What the clients do while everything fails: chunk registers for the checkers, and files with a model beside them.

Registers: every chunk has `BLOCKS` blocks; a write fills some neighbouring blocks with a value of its own, each block
repeating it, so that a torn block shows. Files: every client works in a directory of its own, one operation at a
time, and knows what has to be there; an operation whose outcome is unknown makes its file unknown until it is
written or removed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from random import Random

from tests.simulation.history import History, Operation, Register
from tests.simulation.world import CHUNK_BYTES, ClientProcess, Workload, World

from threefs.client.storage.types import ReadIO, WriteIO
from threefs.common.errors import FileError, ThreefsError
from threefs.common.ids import ChunkId, InodeId

CHUNK_INODE = InodeId(0x7F0000000000)  # of no file: meta never touches it
CHUNKS = 6
BLOCKS = 4
BLOCK_BYTES = 64
LANES = 2  # concurrent loops on chunks in each client
NAMES = 6
QUIET_S = 10.0  # a cluster that nobody uses has to stay whole
LAST_OPERATION_S = 120.0
AFTERMATH_S = 15.0  # after an unknown outcome: by then, what was under way has happened or never will


def encode(value: int) -> bytes:
    return value.to_bytes(8, "big") * (BLOCK_BYTES // 8)


def decode(raw: bytes) -> int:
    """The value of one block, 0 where nothing was written; ValueError if the block is torn."""
    words = {raw[i : i + 8] for i in range(0, BLOCK_BYTES, 8)}
    if len(words) != 1:
        raise ValueError(f"torn block: {raw.hex()}")
    return int.from_bytes(words.pop(), "big")


class Mixed(Workload):
    """Both kinds of work, from `start_s` on until `stop`."""

    def __init__(
        self, world: World, *, think_s: float, chunks: int = CHUNKS, files: bool = True, readers: int = 0
    ) -> None:
        """`readers`: loops in each client that only read chunks, so that somebody looks while others wait."""
        self.world = world
        self.chunks = chunks
        self.history = History()
        self.counts: Counter[str] = Counter()
        self.running = True
        self.loops = 0  # that have not ended
        self.files: dict[str, dict[str, bytes | None]] = {}  # client -> name -> content; None: unknown
        self._think_s = think_s
        self._uses_files = files
        self._readers = readers
        self._value = 0

    def attach(self, client: ClientProcess) -> None:
        """Gives a client that has just started its loops; they die with it."""
        assert client.runtime is not None
        for lane in range(LANES + self._readers):
            writes = 0.5 if lane < LANES else 0.0
            client.runtime.spawn(self._count_loop(self._use_chunks(client, writes)), name=f"chunks {lane}")
        if self._uses_files:
            client.runtime.spawn(self._count_loop(self._use_files(client)), name="files")

    async def _count_loop(self, loop: Awaitable[None]) -> None:
        self.loops += 1
        try:
            await loop
        finally:
            self.loops -= 1

    async def stop(self) -> None:
        """Loops end after their operation, which ends by its own time limits."""
        self.running = False
        runtime, end = self.world.runtime, self.world.runtime.now() + LAST_OPERATION_S
        await runtime.sleep(QUIET_S)
        while self.loops:
            assert runtime.now() < end, (
                f"{self.loops} operations have not ended {LAST_OPERATION_S:g} s after the others"
            )
            await runtime.sleep(1.0)

    # Chunks

    async def _use_chunks(self, client: ClientProcess, writes: float) -> None:
        assert client.runtime is not None
        random = client.runtime.random
        while self.running:
            await client.runtime.sleep(random.expovariate(1 / self._think_s))
            chunk = random.randrange(self.chunks)
            first = random.randrange(BLOCKS)
            count = random.randint(1, BLOCKS - first)
            if random.random() < writes:
                await self._write(client, chunk, first, count)
            else:
                await self.read(client, chunk, first, count)

    async def _write(self, client: ClientProcess, chunk: int, first: int, count: int) -> None:
        assert client.storage is not None
        self._value += 1
        value = self._value
        pieces = [
            self.history.add(
                Operation(client.name, "write", (CHUNK_INODE, chunk, block), value, self.world.runtime.now())
            )
            for block in range(first, first + count)
        ]
        data = memoryview(encode(value) * count)
        io = WriteIO(self._chain(chunk), ChunkId(CHUNK_INODE, chunk), first * BLOCK_BYTES, data, CHUNK_BYTES)
        await client.storage.write([io], timeout_s=15.0)
        if io.error is None:
            for piece in pieces:
                piece.end = self.world.runtime.now()
        self._count("chunk write", io.error)
        self.world.record(f"{client.name} wrote {value} to {chunk}.{first}+{count}: {_outcome(io.error)}")

    async def read(self, client: ClientProcess, chunk: int, first: int, count: int) -> list[int]:
        """Reads some blocks into the history; their values, empty if the read failed."""
        assert client.storage is not None
        start = self.world.runtime.now()
        buffer = bytearray(count * BLOCK_BYTES)
        io = ReadIO(self._chain(chunk), ChunkId(CHUNK_INODE, chunk), first * BLOCK_BYTES, memoryview(buffer))
        await client.storage.read([io], timeout_s=15.0)
        self._count("chunk read", io.error)
        if io.error is not None:
            return []
        try:
            values = [decode(bytes(buffer[i : i + BLOCK_BYTES])) for i in range(0, len(buffer), BLOCK_BYTES)]
        except ValueError as exc:
            self.world.simulation.fail(f"{client.name} read chunk {chunk}: {exc}")
            return []
        for block, value in enumerate(values, start=first):
            place: Register = (CHUNK_INODE, chunk, block)
            self.history.add(Operation(client.name, "read", place, value, start, self.world.runtime.now()))
        self.world.record(f"{client.name} read {chunk}.{first}: {values}")
        return values

    def _chain(self, chunk: int) -> int:
        return self.world.chains[chunk % len(self.world.chains)]

    # Files

    async def _use_files(self, client: ClientProcess) -> None:
        assert client.runtime is not None
        assert client.files is not None
        random, model = client.runtime.random, self.files.setdefault(client.name, {})
        if client.lives > 1:
            await client.runtime.sleep(AFTERMATH_S)
        while self.running:
            await client.runtime.sleep(random.expovariate(1 / self._think_s))
            try:
                await client.files.makedirs(f"/{client.name}")
                break
            except ThreefsError:
                self.counts["mkdir failed"] += 1
        while self.running:
            await client.runtime.sleep(random.expovariate(1 / self._think_s) * 2)
            names = sorted(model)
            action = random.choice(("put", "put", "get", "get", "rename", "remove"))
            if action == "put" or not names:
                await self._put(client, model, f"f{random.randrange(NAMES)}", random)
            elif action == "get":
                await self.get(client, model, random.choice(names))
            elif action == "rename":
                await self._rename(client, model, random.choice(names), f"f{random.randrange(NAMES)}")
            else:
                await self._remove(client, model, random.choice(names))

    async def _put(self, client: ClientProcess, model: dict[str, bytes | None], name: str, random: Random) -> None:
        assert client.files is not None
        self._value += 1
        data = self._value.to_bytes(8, "big") * random.choice((1, 100, 8192, 20000))
        model[name] = None
        error = await self._attempt(client, "file write", client.files.write_bytes(f"/{client.name}/{name}", data))
        if error is None:
            model[name] = data
        self.world.record(f"{client.name} put {name}, {len(data)} bytes: {_outcome(error)}")

    async def get(self, client: ClientProcess, model: dict[str, bytes | None], name: str) -> None:
        """Reads a file; what the model knows must be there."""
        assert client.files is not None
        expected = model[name]
        try:
            found = await client.files.read_bytes(f"/{client.name}/{name}")
        except FileError as exc:
            self._count("file read", None)
            if expected is not None:
                self.world.simulation.fail(f"{client.name}/{name} has {len(expected)} bytes, but reading says: {exc}")
            return
        except ThreefsError as exc:
            self._count("file read", exc)
            return
        self._count("file read", None)
        self.world.record(f"{client.name} got {name}, {len(found)} bytes")
        if expected is not None and found != expected:
            self.world.simulation.fail(
                f"{client.name}/{name} should have {len(expected)} bytes of {expected[:8].hex()}, "
                f"has {len(found)} of {found[:8].hex()}"
            )

    async def _rename(self, client: ClientProcess, model: dict[str, bytes | None], old: str, new: str) -> None:
        assert client.files is not None
        known, replaced = model[old], model.get(new)
        if old == new or known is None:
            return
        model[old] = model[new] = None
        error = await self._attempt(
            client, "rename", client.files.rename(f"/{client.name}/{old}", f"/{client.name}/{new}")
        )
        if isinstance(error, FileError):
            self.world.simulation.fail(f"rename of {client.name}/{old} (replacing {replaced is not None}): {error}")
        if error is None:
            del model[old]
            model[new] = known
        self.world.record(f"{client.name} renamed {old} to {new}: {_outcome(error)}")

    async def _remove(self, client: ClientProcess, model: dict[str, bytes | None], name: str) -> None:
        assert client.files is not None
        known, model[name] = model[name], None
        error = await self._attempt(client, "remove", client.files.remove(f"/{client.name}/{name}"))
        if isinstance(error, FileError) and known is not None:
            self.world.simulation.fail(f"{client.name}/{name} was written, but remove says: {error}")
        if error is None or isinstance(error, FileError):
            del model[name]
        self.world.record(f"{client.name} removed {name}: {_outcome(error)}")

    async def _attempt(self, client: ClientProcess, kind: str, work: Awaitable[object]) -> ThreefsError | None:
        try:
            await work
        except FileError as exc:
            self._count(kind, None)
            return exc
        except ThreefsError as exc:
            self._count(kind, exc)
            await client.runtime.sleep(AFTERMATH_S)
            return exc
        self._count(kind, None)
        return None

    def _count(self, kind: str, error: ThreefsError | None) -> None:
        self.counts["acknowledged" if error is None else "failed"] += 1
        self.counts[f"{kind}{' failed' if error is not None else ''}"] += 1


def _outcome(error: ThreefsError | None) -> str:
    return "ok" if error is None else type(error).__name__
