"""What only the embedded store does: one owner, group commit, crashes, a full map and a full disk."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from threefs.common.errors import Corrupt, InternalError, NoSpace, UserError
from threefs.common.kv.embedded import EmbeddedEngine
from threefs.common.kv.errors import KvMaybeCommitted, KvOwned, KvTooOld, KvUnavailable
from threefs.common.kv.factory import KvConfig, open_engine
from threefs.common.kv.interface import Transaction
from threefs.common.runtime.real import RealRuntime

pytestmark = pytest.mark.unit

MAP_BYTES = 1 << 28

CHILD = """
import asyncio, sys
from pathlib import Path
from threefs.common.kv.embedded import EmbeddedEngine
from threefs.common.runtime.real import RealRuntime

async def main():
    engine = await EmbeddedEngine.open(RealRuntime(), Path(sys.argv[1]), 1 << 28)
    print("open", flush=True)
    async def work(worker):
        for number in range(1_000_000):
            async def body(txn):
                count = int(await txn.get(b"count") or b"0")
                txn.set(b"count", b"%d" % (count + 1))
                txn.set(b"op/%d/%06d" % (worker, number), b"x" * 200)
            await engine.transact(body, timeout_s=60)
            print(f"op/{worker}/{number:06d}", flush=True)
    await asyncio.gather(*(work(worker) for worker in range(8)))
asyncio.run(main())
"""


class LateRuntime(RealRuntime):
    """A clock that a test can put forward."""

    late_s = 0.0

    def now(self) -> float:
        return super().now() + self.late_s


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def child(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_a_second_owner_is_told_of_the_first_and_kill_9_loses_nothing(tmp_path: Path, loop: asyncio.Runner) -> None:
    folder = tmp_path / "kv"
    process = child(folder)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(300)]
    with pytest.raises(KvOwned, match=rf'process {process.pid} on .*"fdb" or "etcd"'):
        loop.run(EmbeddedEngine.open(RealRuntime(), folder, MAP_BYTES))
    process.kill()
    acknowledged += process.stdout.read().split("\n")[:-1]
    process.wait()
    process.stdout.close()

    async def check() -> None:
        engine = await EmbeddedEngine.open(RealRuntime(), folder, MAP_BYTES)
        reader = engine.begin()
        found = {key.decode() for key, _ in await reader.get_range(b"op/", b"op0")}
        assert set(acknowledged) <= found
        assert int(await reader.get(b"count") or b"0") == len(found)
        await engine.close()

    loop.run(check())


def test_one_process_is_one_owner(tmp_path: Path, loop: asyncio.Runner) -> None:
    async def body() -> None:
        first = await EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES)
        with pytest.raises(KvOwned, match=f"process {os.getpid()}"):
            await EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES)
        await first.close()
        again = await EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES)
        await again.close()

    loop.run(body())


def test_commits_share_a_sync(tmp_path: Path, loop: asyncio.Runner) -> None:
    async def body() -> None:
        engine = await EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES)

        async def put(number: int) -> int:
            txn = engine.begin()
            txn.set(b"%d" % number, b"")
            return await txn.commit()

        versions = await asyncio.gather(*(put(number) for number in range(500)))
        assert len(set(versions)) == 500
        assert len({version >> 16 for version in versions}) <= 2
        await engine.close()

    loop.run(body())


def test_members_of_a_group_conflict_with_each_other(tmp_path: Path, loop: asyncio.Runner) -> None:
    async def body() -> None:
        engine = await EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES)

        async def bump(txn: Transaction) -> None:
            txn.set(b"n", b"%d" % (int(await txn.get(b"n") or b"0") + 1))

        await asyncio.gather(*(engine.transact(bump, timeout_s=30) for _ in range(20)))
        assert await engine.begin().get(b"n") == b"20"
        await engine.close()

    loop.run(body())


def test_snapshots_end_with_their_transactions_or_with_old_age(tmp_path: Path, loop: asyncio.Runner) -> None:
    async def body() -> None:
        runtime = LateRuntime()
        engine = await EmbeddedEngine.open(runtime, tmp_path, MAP_BYTES)
        old, leaked = engine.begin(), engine.begin()
        await old.get(b"a")
        await leaked.get(b"a")
        runtime.late_s = 6.0
        with pytest.raises(KvTooOld, match=r"\d+\.\d s old"):
            await old.get(b"a")
        writer = engine.begin()
        writer.set(b"a", b"1")
        await writer.commit()
        assert not engine.snapshots  # the commit has swept them away
        old.set(b"b", b"1")
        with pytest.raises(KvTooOld):
            await old.commit()
        assert len(engine.window) == 1
        await engine.close()

    loop.run(body())


def test_what_only_reads_sees_one_snapshot_and_cannot_write(tmp_path: Path, loop: asyncio.Runner) -> None:
    async def body() -> None:
        engine = await EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES)

        async def put(value: bytes) -> None:
            writer = engine.begin()
            writer.set(b"a", value)
            await writer.commit()

        async def look(txn: Transaction) -> tuple[bytes | None, list[tuple[bytes, bytes]]]:
            first = await txn.get(b"a")
            await put(b"2")
            assert await txn.get(b"a") == first
            return first, await txn.get_range(b"", b"\xff\xff")  # what is the store's own stays hidden

        await put(b"1")
        assert await engine.read(look) == (b"1", [(b"a", b"1")])

        async def change(txn: Transaction) -> None:
            txn.set(b"a", b"3")

        with pytest.raises(InternalError, match="only reads"):
            await engine.read(change)
        assert not engine.snapshots
        await engine.close()

    loop.run(body())


def test_a_full_map_is_explained_and_harms_nothing(tmp_path: Path, loop: asyncio.Runner) -> None:
    async def body() -> None:
        engine = await open_engine(KvConfig(path=str(tmp_path / "kv"), map_bytes_max=1 << 20), RealRuntime())
        await fill(engine, match="map_bytes_max")
        await engine.close()
        larger = await open_engine(KvConfig(path=str(tmp_path / "kv"), map_bytes_max=1 << 22), RealRuntime())
        more = larger.begin()
        more.set(b"more", bytes(100_000))
        await more.commit()
        await larger.close()

    loop.run(body())


async def fill(engine: object, match: str) -> None:
    """Writes until NoSpace; what was acknowledged is there, and clearing makes room again."""
    assert isinstance(engine, EmbeddedEngine)
    count = 0
    while True:
        txn = engine.begin()
        txn.set(b"fill/%04d" % count, bytes(20_000))
        try:
            await txn.commit()
        except NoSpace as exc:
            reason = str(exc)
            break
        count += 1
    assert match in reason
    reader = engine.begin()
    assert len(await reader.get_range(b"fill/", b"fill0")) == count > 0
    reader.cancel()
    clear = engine.begin()
    clear.clear(b"fill/0000")
    await clear.commit()
    for _ in range(2):  # LMDB reuses pages that two commits ago became free
        txn = engine.begin()
        txn.set(b"small", b"")
        await txn.commit()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_explained_and_harms_nothing(tmp_path: Path, loop: asyncio.Runner) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    try:

        async def body() -> None:
            engine = await EmbeddedEngine.open(RealRuntime(), tmp_path / "kv", MAP_BYTES)
            await fill(engine, match="disk is full")
            await engine.close()

        loop.run(body())
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_who_is_alone_commits_on_the_spot_and_others_together(
    tmp_path: Path, loop: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        engine = await EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES)
        monkeypatch.setattr("threefs.common.kv.embedded.LONE_S_MAX", 3600.0)
        is_lone, found = engine._is_lone, []
        monkeypatch.setattr(engine, "_is_lone", lambda group: found.append(is_lone(group)) or found[-1])

        async def commit(key: bytes) -> None:
            txn = engine.begin()
            await txn.get(key)
            txn.set(key, key)
            await txn.commit()

        await commit(b"alone")
        await asyncio.gather(commit(b"two"), commit(b"at once"))
        other = engine.begin()
        await other.get(b"alone")
        await commit(b"beside a transaction that has read")
        other.cancel()
        engine._commit_s = 3600.0
        await commit(b"on a slow disk")
        assert found == [True, False, False, False]
        keys = [key for key, _ in await engine.begin_reading().get_range(b"", b"\xff")]
        assert keys == [b"alone", b"at once", b"beside a transaction that has read", b"on a slow disk", b"two"]
        await engine.close()

    loop.run(body())


@pytest.mark.parametrize("took_s", [0.0, 3600.0])
def test_a_failing_disk_stops_the_store(
    tmp_path: Path, loop: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, took_s: float
) -> None:
    async def body() -> None:
        engine = await EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES)
        engine._commit_s = took_s  # on the spot, and by the store's thread

        def fail(group: object, code: int, number: int) -> None:
            raise KvMaybeCommitted("writing: Input/output error")

        monkeypatch.setattr(engine, "_check_written", fail)
        for error in (KvMaybeCommitted, KvUnavailable):
            txn = engine.begin()
            txn.set(b"a", b"1")
            with pytest.raises(error, match="Input/output error"):
                await txn.commit()
        await engine.close()

    loop.run(body())


@pytest.mark.parametrize("content", [b"no store at all" * 1000, b""])
def test_folders_that_are_no_store_are_refused(tmp_path: Path, loop: asyncio.Runner, content: bytes) -> None:
    if content:
        (tmp_path / "data.mdb").write_bytes(content)
        with pytest.raises(Corrupt, match="damaged"):
            loop.run(EmbeddedEngine.open(RealRuntime(), tmp_path, MAP_BYTES))
    else:
        (tmp_path / "file").touch()
        with pytest.raises(KvUnavailable, match="file"):
            loop.run(EmbeddedEngine.open(RealRuntime(), tmp_path / "file", MAP_BYTES))
    with pytest.raises(UserError, match=r"kv\.path"):
        loop.run(open_engine(KvConfig(), RealRuntime()))
