"""The workload of the engine's power-loss test: runs in a process of its own, under the recorder.

`python engine_workload.py FOLDER SEED ROUNDS`. Marks what it asks for before it asks, and what it was promised once
it was; test_engine_power_loss.py reads both back. A chunk number is never used again after its removal.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.native.recorder import power_loss

from threefs.client.storage.channels import Ticket
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, ClientId, InodeId, TargetId
from threefs.storage.engine import Commit, Update, UpdateKind
from threefs.storage.native_engine import EngineOptions, NativeEngine

TARGET = TargetId(3)
CLIENT = ClientId(b"client of chunks")  # its channels are the chunks' numbers, its sequences their versions
SIZES = (65536, 131072, 1 << 21)


@dataclass
class Chunk:
    number: int
    version: int = 0
    data: bytes = b""
    pending: tuple[UpdateKind, bytes] | None = None
    gone: bool = False

    @property
    def id(self) -> ChunkId:
        return ChunkId(InodeId(1), self.number)

    @property
    def chunk_bytes(self) -> int:
        return SIZES[self.number % len(SIZES)]


@dataclass
class Workload:
    engine: NativeEngine
    random: Random
    mark: Callable[[str], None]
    chunks: list[Chunk] = field(default_factory=list)
    created: int = 0

    def say(self, **fields: object) -> None:
        self.mark(json.dumps(fields))

    def choose(self, chunk: Chunk) -> tuple[Update, bytes]:
        """An update and the content that it leads to."""
        draw, old = self.random, chunk.data
        kinds = [UpdateKind.WRITE] * 6 + [UpdateKind.TRUNCATE, UpdateKind.EXTEND, UpdateKind.REPLACE]
        kind = draw.choice(kinds + [UpdateKind.REMOVE] * bool(chunk.version > 2))
        version = ChunkVersion(chunk.version + 1)
        ticket = Ticket(CLIENT, chunk.number, version)
        update = Update(TARGET, chunk.id, kind, chunk.chunk_bytes, version, ChainVersion(1), ticket=ticket)
        length = draw.choice([1, 100, 4096, 5000, 8192, 16384, 20000])
        if kind is UpdateKind.REMOVE:
            return update, b""
        if kind in (UpdateKind.TRUNCATE, UpdateKind.EXTEND):
            update.length = draw.randrange(30000)
            cut = old if kind is UpdateKind.EXTEND else old[: update.length]
            return update, cut.ljust(update.length, b"\0")
        update.data = memoryview(draw.randbytes(length))
        if kind is UpdateKind.REPLACE:
            return update, bytes(update.data)
        offset = draw.choice([len(old), len(old), 0, draw.randrange(len(old) + 1)])
        update.offset = min(offset, chunk.chunk_bytes - length)
        end = update.offset + length
        return update, old[: update.offset] + bytes(update.data) + old[end:]

    async def stage(self, chunk: Chunk) -> None:
        update, content = self.choose(chunk)
        self.say(
            ask="stage",
            chunk=chunk.number,
            version=int(update.version),
            remove=update.kind is UpdateKind.REMOVE,
            length=len(content),
            crc=zlib.crc32(content),
        )
        [result] = await self.engine.stage([update])
        assert result.error is None, result.error
        self.say(got="stage", chunk=chunk.number, version=int(update.version))
        chunk.pending = (update.kind, content)

    async def settle(self, chunk: Chunk) -> None:
        """Commits, aborts, or leaves the pending state for a retry."""
        version = chunk.version + 1
        assert chunk.pending is not None
        if self.random.random() < 0.1:
            return
        if self.random.random() < 0.08:
            self.say(ask="abort", chunk=chunk.number, version=version)
            await self.engine.abort(TARGET, chunk.id, ChunkVersion(version))
            chunk.pending = None
            return
        self.say(ask="commit", chunk=chunk.number, version=version)
        [error] = await self.engine.commit([Commit(TARGET, chunk.id, ChunkVersion(version), ChainVersion(1))])
        assert error is None
        kind, chunk.data = chunk.pending
        chunk.version, chunk.pending, chunk.gone = version, None, kind is UpdateKind.REMOVE

    async def round(self) -> None:
        while len(self.chunks) < 6:
            self.chunks.append(Chunk(self.created))
            self.created += 1
        busy = self.random.sample(self.chunks, self.random.randint(1, 4))
        await asyncio.gather(*(self.stage(chunk) for chunk in busy))
        for chunk in busy:
            await self.settle(chunk)
        if self.random.random() < 0.15:
            await self.engine.sync()
            self.say(got="sync")
        self.chunks = [chunk for chunk in self.chunks if not chunk.gone]


async def main(folder: Path, seed: int, rounds: int) -> None:
    mark = power_loss.marker()
    engine = await NativeEngine.open(folder, EngineOptions(plain_io=True, flush_delay_s=0.002))
    await engine.create_target(TARGET)
    mark(json.dumps({"got": "target"}))
    workload = Workload(engine, Random(seed), mark)
    for number in range(rounds):
        await workload.round()
        if number == rounds // 2:
            await engine.close()
            mark(json.dumps({"got": "sync"}))
            engine = await NativeEngine.open(folder, EngineOptions(plain_io=True, flush_delay_s=0.002))
            workload.engine = engine
    await engine.close()
    mark(json.dumps({"got": "sync"}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
