"""The promises of `storage.engine`, on the native engine and on its simulated twin, against a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threefs.client.storage.channels import NOBODY, Ticket
from threefs.common.errors import BadRequest, ChecksumMismatch, Conflict, NotFound
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, ClientId, InodeId, TargetId
from threefs.common.runtime.simulated import Simulation
from threefs.native.checksum import crc32c
from threefs.storage.engine import (
    READ_ARRAY,
    ChunkEngine,
    ChunkMeta,
    Commit,
    Finished,
    MissingUpdate,
    Outcome,
    ReadOp,
    StaleUpdate,
    Update,
    UpdateKind,
    UpdateResult,
)
from threefs.storage.native_engine import EngineOptions, NativeEngine
from threefs.storage.simulated_engine import SimulatedDisk, SimulatedEngine

pytestmark = pytest.mark.unit

TARGET = TargetId(71)
CHUNK = ChunkId(InodeId(0x1000), 0)
BYTES = 1 << 20
FIRST, LAST = ChunkId(InodeId(0), 0), ChunkId(InodeId(2**64 - 1), 2**32 - 1)

Open = Callable[[], Awaitable[ChunkEngine]]
Body = Callable[[Open], Coroutine[Any, Any, None]]


class Native:
    """Runs a test's body with a way to open (and open again) one engine."""

    name = "native"

    def run(self, folder: Path, body: Body) -> None:
        async def opener() -> ChunkEngine:
            return await NativeEngine.open(folder, EngineOptions(flush_delay_s=0.01))

        asyncio.run(body(opener))


class Simulated:
    name = "simulated"

    def run(self, folder: Path, body: Body) -> None:
        simulation = Simulation(1)
        disk = SimulatedDisk()

        async def opener() -> ChunkEngine:
            return SimulatedEngine(simulation.runtime("storage"), disk)

        simulation.run(body(opener))


@pytest.fixture(params=[Native(), Simulated()], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Native | Simulated:
    return request.param  # type: ignore[no-any-return]


@asynccontextmanager
async def engine_of(opener: Open) -> AsyncIterator[ChunkEngine]:
    engine = await opener()
    await engine.create_target(TARGET)
    try:
        yield engine
    finally:
        await engine.close()


def update(
    kind: UpdateKind,
    version: int,
    *,
    data: bytes = b"",
    offset: int = 0,
    length: int = 0,
    chunk: ChunkId = CHUNK,
    chain: int = 1,
    chunk_bytes: int = BYTES,
) -> Update:
    return Update(
        TARGET,
        chunk,
        kind,
        chunk_bytes,
        ChunkVersion(version),
        ChainVersion(chain),
        offset=offset,
        length=length,
        data=memoryview(data),
        crc32c=crc32c(data),
    )


async def stage(engine: ChunkEngine, wanted: Update) -> UpdateResult:
    [result] = await engine.stage([wanted])
    return result


async def commit(engine: ChunkEngine, version: int, *, chunk: ChunkId = CHUNK, chain: int = 1) -> Exception | None:
    [error] = await engine.commit([Commit(TARGET, chunk, ChunkVersion(version), ChainVersion(chain))])
    return error


async def put(engine: ChunkEngine, wanted: Update) -> None:
    result = await stage(engine, wanted)
    assert result.error is None
    assert await commit(engine, wanted.version, chunk=wanted.chunk) is None


async def content(
    engine: ChunkEngine, *, chunk: ChunkId = CHUNK, offset: int = 0, length: int = BYTES, pending: bool = False
) -> bytes:
    space = bytearray(length)
    [result] = await engine.read([ReadOp(TARGET, chunk, offset, memoryview(space), pending)])
    assert result.error is None, result.error
    assert result.crc32c == crc32c(space[: result.length])
    return bytes(space[: result.length])


async def meta(engine: ChunkEngine, chunk: ChunkId = CHUNK) -> ChunkMeta | None:
    return (await engine.query(TARGET, [chunk]))[0]


def noise(length: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(length)


def test_a_staged_update_is_seen_only_when_committed(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            data = noise(5000)
            result = await stage(engine, update(UpdateKind.WRITE, 1, data=data))
            assert (result.length, result.crc32c) == (5000, crc32c(data))
            assert await content(engine) == b""
            assert await content(engine, pending=True) == data
            assert await commit(engine, 1, chain=4) is None
            assert await content(engine) == data
            found = await meta(engine)
            assert found is not None
            assert (found.committed, found.committed_chain_version, found.pending) == (1, 4, 0)
            assert (found.length, found.crc32c, found.chunk_bytes) == (5000, crc32c(data), BYTES)

    kind.run(tmp_path, body)


def test_versions_that_do_not_follow_are_refused(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            await put(engine, update(UpdateKind.WRITE, 1, data=b"one"))
            assert isinstance((await stage(engine, update(UpdateKind.WRITE, 1, data=b"x"))).error, StaleUpdate)
            assert isinstance((await stage(engine, update(UpdateKind.WRITE, 3, data=b"x"))).error, MissingUpdate)
            assert isinstance(await commit(engine, 2), MissingUpdate)
            assert await commit(engine, 1) is None
            assert isinstance(await commit(engine, 1, chunk=ChunkId(InodeId(9), 9)), MissingUpdate)
            assert await content(engine) == b"one"

    kind.run(tmp_path, body)


def test_a_retry_replaces_the_pending_state(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            await put(engine, update(UpdateKind.WRITE, 1, data=noise(4096)))
            for attempt in (noise(4096, 2), noise(9000, 3), noise(100, 4)):
                await stage(engine, update(UpdateKind.WRITE, 2, data=attempt, offset=4096))
                assert await content(engine, pending=True) == noise(4096) + attempt
            await commit(engine, 2)
            assert await content(engine) == noise(4096) + noise(100, 4)

    kind.run(tmp_path, body)


def test_replace_jumps_forward_and_wins_under_a_newer_chain(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            await put(engine, update(UpdateKind.REPLACE, 40, data=noise(70000)))
            stale = await stage(engine, update(UpdateKind.REPLACE, 40, data=b"x"))
            assert isinstance(stale.error, StaleUpdate)
            result = await stage(engine, update(UpdateKind.REPLACE, 12, data=b"resynced", chain=2))
            assert result.error is None
            assert await commit(engine, 12, chain=2) is None
            assert await content(engine) == b"resynced"
            found = await meta(engine)
            assert found is not None
            assert (found.committed, found.committed_chain_version) == (12, 2)

    kind.run(tmp_path, body)


def test_abort_drops_only_the_version_it_names(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            await put(engine, update(UpdateKind.WRITE, 1, data=b"one"))
            await stage(engine, update(UpdateKind.WRITE, 2, data=b"two"))
            await engine.abort(TARGET, CHUNK, ChunkVersion(1))
            assert await content(engine, pending=True) == b"two"
            await engine.abort(TARGET, CHUNK, ChunkVersion(2))
            found = await meta(engine)
            assert found is not None
            assert found.pending == 0
            assert isinstance(await commit(engine, 2), MissingUpdate)
            assert await content(engine) == b"one"

    kind.run(tmp_path, body)


def test_a_removed_chunk_is_gone_and_may_come_again(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            await put(engine, update(UpdateKind.WRITE, 1, data=noise(200_000)))
            used = (await engine.space()).used_bytes
            assert used >= 200_000
            await stage(engine, update(UpdateKind.REMOVE, 2))
            found = await meta(engine)
            assert found is not None
            assert found.pending_remove
            assert await content(engine) == noise(200_000)
            await commit(engine, 2)
            assert await meta(engine) is None
            assert await content(engine) == b""
            await engine.sync()
            assert (await engine.space()).used_bytes == 0
            await put(engine, update(UpdateKind.WRITE, 1, data=b"again"))
            assert await content(engine) == b"again"

    kind.run(tmp_path, body)


def test_bad_data_and_bad_ranges_change_nothing(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            await put(engine, update(UpdateKind.WRITE, 1, data=b"one"))
            wrong = replace(update(UpdateKind.WRITE, 2, data=noise(5000)), crc32c=7)
            for offset in (0, 3, 4096, 100_000):
                assert isinstance((await stage(engine, replace(wrong, offset=offset))).error, ChecksumMismatch)
            beyond = update(UpdateKind.WRITE, 2, data=b"xy", offset=BYTES - 1)
            assert isinstance((await stage(engine, beyond)).error, BadRequest)
            unknown = replace(update(UpdateKind.WRITE, 2, data=b"x"), target=TargetId(5))
            assert isinstance((await stage(engine, unknown)).error, NotFound)
            found = await meta(engine)
            assert found is not None
            assert (found.committed, found.pending) == (1, 0)

    kind.run(tmp_path, body)


def test_one_bad_operation_does_not_harm_its_batch(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            chunks = [ChunkId(InodeId(2), number) for number in range(20)]
            updates = [
                update(UpdateKind.WRITE, 1 + (n == 7), data=noise(100 + n, n), chunk=c) for n, c in enumerate(chunks)
            ]
            results = await engine.stage(updates)
            assert [n for n, result in enumerate(results) if result.error] == [7]
            commits = [Commit(TARGET, c, ChunkVersion(1), ChainVersion(1)) for c in chunks]
            errors = await engine.commit(commits)
            assert [n for n, error in enumerate(errors) if error] == [7]
            for n, chunk in enumerate(chunks):
                assert await content(engine, chunk=chunk) == (b"" if n == 7 else noise(100 + n, n))

    kind.run(tmp_path, body)


def test_reads_end_at_the_end_of_the_chunk(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            data = noise(10_001)
            await put(engine, update(UpdateKind.WRITE, 1, data=data))
            for offset, length in ((0, 1), (1, 4095), (4095, 2), (8192, 4096), (10_000, 9), (10_001, 9), (50_000, 9)):
                assert await content(engine, offset=offset, length=length) == data[offset : offset + length]
            [missing] = await engine.read([ReadOp(TARGET, ChunkId(InodeId(3), 3), 0, memoryview(bytearray(9)))])
            assert (missing.length, missing.committed, missing.error) == (0, 0, None)

    kind.run(tmp_path, body)


def test_list_gives_committed_and_pending_chunks_in_order(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            ids = [ChunkId(InodeId(inode), number) for inode in (5, 6, 1 << 40) for number in (0, 1, 255, 256)]
            await engine.create_target(TargetId(70))
            await engine.create_target(TargetId(72))
            await engine.stage([update(UpdateKind.WRITE, 1, data=b"x", chunk=chunk) for chunk in reversed(ids)])
            await engine.stage([replace(update(UpdateKind.WRITE, 1, data=b"y"), target=TargetId(t)) for t in (70, 72)])
            await engine.commit([Commit(TARGET, c, ChunkVersion(1), ChainVersion(1)) for c in ids[::2]])
            for synced in (False, True):
                if synced:
                    await engine.sync()
                assert [m.chunk for m in await engine.list(TARGET, FIRST, LAST)] == ids
                assert [m.chunk for m in await engine.list(TARGET, FIRST, LAST, reverse=True)] == ids[::-1]
                assert [m.chunk for m in await engine.list(TARGET, ids[2], ids[9])] == ids[2:9]
                assert [m.chunk for m in await engine.list(TARGET, ids[2], ids[9], reverse=True)] == ids[2:9][::-1]
                assert [m.chunk for m in await engine.list(TARGET, ids[3], LAST, limit=2)] == ids[3:5]
                assert [m.chunk for m in await engine.list(TARGET, FIRST, ids[3], limit=1, reverse=True)] == [ids[2]]
                assert [m.committed for m in await engine.list(TARGET, FIRST, LAST)] == [1, 0] * 6

    kind.run(tmp_path, body)


def test_everything_acknowledged_is_there_after_reopening(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            await put(engine, update(UpdateKind.WRITE, 1, data=noise(300_000)))
            await stage(engine, update(UpdateKind.WRITE, 2, data=noise(5000, 2), offset=1000))
            await put(engine, update(UpdateKind.WRITE, 1, data=b"gone", chunk=ChunkId(InodeId(4), 4)))
            await put(engine, update(UpdateKind.REMOVE, 2, chunk=ChunkId(InodeId(4), 4)))
        async with engine_of(opener) as engine:
            assert (engine.recovery.chunks, engine.recovery.pending) == (1, 1)
            assert engine.targets() == (TARGET,) or list(engine.targets()) == [TARGET]
            expected = noise(300_000)
            assert await content(engine) == expected
            assert await commit(engine, 2) is None
            assert await content(engine) == expected[:1000] + noise(5000, 2) + expected[6000:]
            assert await engine.verify(TARGET, CHUNK) is None

    kind.run(tmp_path, body)


def test_a_dropped_target_leaves_no_space_taken(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            other = replace(update(UpdateKind.WRITE, 1, data=b"kept"), target=TargetId(9))
            await engine.create_target(TargetId(9))
            await engine.stage([other])
            left = (await engine.space()).used_bytes
            updates = [update(UpdateKind.WRITE, 1, data=noise(9000), chunk=ChunkId(InodeId(1), n)) for n in range(700)]
            await engine.stage(updates)
            await engine.commit([Commit(TARGET, u.chunk, ChunkVersion(1), ChainVersion(1)) for u in updates[:600]])
            await engine.drop_target(TARGET)
            assert (await engine.space()).used_bytes == left
            with pytest.raises(NotFound):
                await engine.list(TARGET, FIRST, LAST)
            assert (await engine.query(TargetId(9), [CHUNK]))[0] is not None
            await engine.create_target(TARGET)
            assert list(await engine.list(TARGET, FIRST, LAST)) == []

    kind.run(tmp_path, body)


def test_a_second_owner_is_refused(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener):
            with pytest.raises(Conflict):
                await opener()

    kind.run(tmp_path, body)


def test_many_batches_at_once(kind: Native | Simulated, tmp_path: Path) -> None:
    """Each chunk sees its own updates in the order in which they were submitted."""

    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:

            async def writer(number: int) -> None:
                chunk = ChunkId(InodeId(1), number)
                for version in range(1, 9):
                    piece = noise(1000 + number, number * 10 + version)
                    await put(engine, update(UpdateKind.WRITE, version, data=piece, offset=version * 700, chunk=chunk))

            await asyncio.gather(*(writer(number) for number in range(40)))
            for number in range(40):
                expected = bytearray(700 * 8 + 1000 + number)
                for version in range(1, 9):
                    expected[version * 700 : version * 700 + 1000 + number] = noise(
                        1000 + number, number * 10 + version
                    )
                assert await content(engine, chunk=ChunkId(InodeId(1), number)) == bytes(expected)

    kind.run(tmp_path, body)


# The model: what a chunk's states must be after any sequence of operations.


@dataclass
class Model:
    version: int = 0
    chain: int = 0
    data: bytes | None = None
    pending: tuple[int, bytes | None] | None = None  # None as data: a removal

    def next_data(self, wanted: Update) -> bytes | None:
        old = self.data or b""
        match wanted.kind:
            case UpdateKind.REMOVE:
                return None
            case UpdateKind.REPLACE:
                return bytes(wanted.data)
            case UpdateKind.TRUNCATE:
                return old[: wanted.length].ljust(wanted.length, b"\0")
            case UpdateKind.EXTEND:
                return old.ljust(wanted.length, b"\0")
        if not wanted.data:
            return old
        end = wanted.offset + len(wanted.data)
        return old[: wanted.offset].ljust(wanted.offset, b"\0") + bytes(wanted.data) + old[end:]


LENGTHS = st.one_of(
    st.sampled_from([0, 1, 511, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 131072]), st.integers(0, 131072)
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "write",
                "write",
                "append",
                "append",
                "replace",
                "truncate",
                "extend",
                "remove",
                "retry",
                "abort",
                "reopen",
            ]
        ),
        st.integers(0, 1),
        LENGTHS,
        LENGTHS,
        st.integers(0, 1 << 30),
        st.booleans(),
    ),
    max_size=14,
)


async def play(opener: Open, steps: list[tuple[str, int, int, int, int, bool]], chunk_bytes: int) -> None:
    engine = await opener()
    await engine.create_target(TARGET)
    models = [Model(), Model()]
    for name, which, offset, length, seed, commits in steps:
        model, chunk = models[which], ChunkId(InodeId(50), which)
        if name == "reopen":
            await engine.close()
            engine = await opener()
        elif name == "abort":
            await engine.abort(TARGET, chunk, ChunkVersion(model.pending[0] if model.pending else 1))
            model.pending = None
        else:
            await play_update(engine, model, name, chunk, offset, length, seed, commits, chunk_bytes)
        for number, expected in enumerate(models):
            await compare(engine, expected, ChunkId(InodeId(50), number), chunk_bytes)
    await engine.close()


async def play_update(
    engine: ChunkEngine,
    model: Model,
    name: str,
    chunk: ChunkId,
    offset: int,
    length: int,
    seed: int,
    commits: bool,
    chunk_bytes: int,
) -> None:
    kind = UpdateKind[{"append": "WRITE", "retry": "WRITE"}.get(name, name.upper())]
    offset = len(model.data or b"") if name == "append" else offset if kind is UpdateKind.WRITE else 0
    offset = min(offset, chunk_bytes)
    length = min(length, chunk_bytes - offset)
    data = noise(length, seed) if kind in (UpdateKind.WRITE, UpdateKind.REPLACE) else b""
    wanted = update(
        kind, model.version + 1, data=data, offset=offset, length=length, chunk=chunk, chunk_bytes=chunk_bytes
    )
    if model.data is None and kind is UpdateKind.REMOVE:
        return
    result = await stage(engine, wanted)
    assert result.error is None, result.error
    expected = model.next_data(wanted)
    assert (result.length, result.crc32c) == (len(expected or b""), crc32c(expected or b""))
    model.pending = (model.version + 1, expected)
    if commits and name != "retry":
        assert await commit(engine, model.version + 1, chunk=chunk) is None
        model.version, model.data, model.pending = model.version + 1 if expected is not None else 0, expected, None


async def compare(engine: ChunkEngine, model: Model, chunk: ChunkId, chunk_bytes: int) -> None:
    assert await content(engine, chunk=chunk, length=chunk_bytes) == (model.data or b"")
    pending = await content(engine, chunk=chunk, length=chunk_bytes, pending=True)
    assert pending == ((model.pending and model.pending[1]) or b"")
    found = await meta(engine, chunk)
    if model.data is None and model.pending is None:
        assert found is None
        return
    assert found is not None
    assert (found.committed, found.pending) == (model.version, model.pending[0] if model.pending else 0)
    assert (found.length, found.crc32c) == (len(model.data or b""), crc32c(model.data or b""))
    assert await engine.verify(TARGET, chunk) is None
    if isinstance(engine, NativeEngine):
        assert engine.audit() == ""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS, chunk_bytes=st.sampled_from([65536, 131072, 1 << 21]))
def test_any_sequence_agrees_with_the_model(
    kind: Native | Simulated,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, int, int, int, bool]],
    chunk_bytes: int,
) -> None:
    kind.run(tmp_path_factory.mktemp("engine"), lambda opener: play(opener, steps, chunk_bytes))


def test_an_array_of_reads_gives_what_single_reads_give(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            ids = [ChunkId(InodeId(5), number) for number in range(4)]
            for number, chunk in enumerate(ids[:3]):
                content = bytes([number + 1]) * (9000 - number)
                await engine.stage([update(UpdateKind.WRITE, 1, data=content, chunk=chunk)])
                await engine.commit([Commit(TARGET, chunk, ChunkVersion(1), ChainVersion(7))])
            await engine.stage([update(UpdateKind.WRITE, 2, data=b"pending", chunk=ids[1])])
            asked = [(ids[index % 4], 100 * index, 4096 if index % 2 else 8900) for index in range(8)]
            singles = [ReadOp(TARGET, chunk, offset, memoryview(bytearray(size))) for chunk, offset, size in asked]
            singles.append(ReadOp(TargetId(99), CHUNK, 0, memoryview(bytearray(10))))
            expected = await engine.read(singles)
            reads = np.zeros(len(singles), READ_ARRAY)
            for index, op in enumerate(singles):
                reads[index]["target"], reads[index]["chunk"] = op.target, np.void(op.chunk.pack())
                reads[index]["offset"], reads[index]["bytes"] = op.offset, len(op.buffer)
            data = memoryview(bytearray(sum(len(op.buffer) for op in singles)))
            await engine.read_array(reads, data)
            start = 0
            for found, op, result in zip(reads, singles, expected, strict=True):
                assert (found["error"] != 0) == (result.error is not None)
                if result.error is None:
                    assert (found["length"], found["crc32c"]) == (result.length, result.crc32c)
                    assert (found["committed"], found["pending"]) == (result.committed, result.pending)
                    assert found["chain_version"] == result.committed_chain_version
                    assert data[start : start + result.length] == op.buffer[: result.length]
                start += len(op.buffer)

    kind.run(tmp_path, body)


def ticket(sequence: int, channel: int = 1, client: bytes = b"c") -> Ticket:
    return Ticket(ClientId(client.ljust(16, b".")), channel, sequence)


def test_a_commit_remembers_whose_update_it_was(kind: Native | Simulated, tmp_path: Path) -> None:
    async def body(opener: Open) -> None:
        async with engine_of(opener) as engine:
            first = replace(update(UpdateKind.WRITE, 1, data=b"one"), ticket=ticket(7))
            await stage(engine, first)
            found = await meta(engine)
            assert found is not None
            assert (found.pending_ticket, found.ticket) == (ticket(7), NOBODY)
            assert await commit(engine, 1, chain=3) is None
            await stage(engine, replace(update(UpdateKind.WRITE, 2, data=b"two"), ticket=ticket(9, channel=2)))
        async with engine_of(opener) as engine:
            found = await meta(engine)
            assert found is not None
            assert (found.ticket, found.pending_ticket) == (ticket(7), ticket(9, channel=2))
            assert [(item.ticket, item.outcome) for item in engine.finished(TARGET)] == [
                (ticket(7), Outcome(ChunkVersion(1), ChainVersion(3), 3, crc32c(b"one")))
            ]
            await engine.abort(TARGET, CHUNK, ChunkVersion(2))
            await put(engine, replace(update(UpdateKind.REMOVE, 2), ticket=ticket(8)))
            await engine.sync()
            assert [item.ticket for item in engine.finished(TARGET)] == [ticket(8)], "one for each channel"
        async with engine_of(opener) as engine:
            assert await meta(engine) is None
            assert [item.ticket for item in engine.finished(TARGET)] == [ticket(8)], "also of a chunk that is gone"

    kind.run(tmp_path, body)


def test_what_was_finished_elsewhere_is_remembered_until_it_is_forgotten(
    kind: Native | Simulated, tmp_path: Path
) -> None:
    async def body(opener: Open) -> None:
        done = Outcome(ChunkVersion(4), ChainVersion(2), 10, 20)
        wanted = [Finished(ticket(5, channel), done, 1000 + channel) for channel in range(5000)]
        async with engine_of(opener) as engine:
            await engine.remember(TARGET, wanted)
            await engine.remember(TARGET, [Finished(ticket(4, 17), done, 9999)])
            assert engine.finished(TARGET) == wanted, "a later sequence is not replaced by an earlier one"
            engine.forget(TARGET, [ticket(1, channel) for channel in range(10, 5000)])
            await engine.sync()
        async with engine_of(opener) as engine:
            assert engine.finished(TARGET) == wanted[:10]
            await engine.drop_target(TARGET)
            await engine.create_target(TARGET)
            assert engine.finished(TARGET) == []

    kind.run(tmp_path, body)
