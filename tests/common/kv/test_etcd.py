"""What only the etcd engine does: tombstones and their purge, the fence, fail-over of members."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.common.kv.conftest import patient

from threefs.common.errors import UserError
from threefs.common.kv.errors import KvConflict, KvLimitError, KvMaybeCommitted, KvTooOld, KvUnavailable
from threefs.common.kv.etcd import EtcdEngine, merge_spans
from threefs.common.kv.etcd_local import EtcdLocal
from threefs.common.kv.etcd_rpc import rpc
from threefs.common.kv.factory import KvConfig, open_engine
from threefs.common.kv.interface import Transaction
from threefs.common.kv.ranges import RangeSet
from threefs.common.net.ports import free_ports
from threefs.common.runtime.real import RealRuntime

pytestmark = pytest.mark.cluster


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


async def open_etcd(config: KvConfig, runtime: RealRuntime) -> EtcdEngine:
    engine = await open_engine(config, runtime)
    assert isinstance(engine, EtcdEngine)
    return engine


async def raw_keys(engine: EtcdEngine) -> list[bytes]:
    """Every key of the store as etcd has it, tombstones included."""
    request = rpc.RangeRequest(key=engine.prefix, range_end=engine.prefix + b"\xff")
    return [kv.key[len(engine.prefix) :] for kv in (await engine.members.range(request)).kvs]


def test_tombstones_are_purged_and_older_snapshots_fail(etcd: EtcdLocal, loop: asyncio.Runner) -> None:
    async def body() -> None:
        runtime = RealRuntime()
        engine = await open_etcd(patient(etcd.config(f"test-{runtime.uuid().hex()}/")), runtime)
        setup = engine.begin()
        for key in (b"a", b"b", b"c"):
            setup.set(key, b"1")
        await setup.commit()
        old = engine.begin()
        assert len(await old.get_range(b"a", b"z")) == 3
        delete = engine.begin()
        delete.clear(b"a")
        delete.clear_range(b"b", b"c")
        deleted_at = await delete.commit()
        again = engine.begin()
        again.set(b"b", b"2")  # no tombstone any more: the purge must leave it
        await again.commit()
        assert {b"k/a", b"k/b", b"k/c"} < set(await raw_keys(engine))
        young = engine.begin()
        assert await young.get_range(b"a", b"z") == [(b"b", b"2"), (b"c", b"1")]
        assert await engine.purge.purge(deleted_at) == 1
        assert [key for key in await raw_keys(engine) if key[:2] in (b"k/", b"t/")] == [b"k/b", b"k/c"]
        for late, error in ((old, KvTooOld), (young, None)):
            late.set(b"out", b"1")
            if error is None:
                await late.commit()
                continue
            with pytest.raises(error):
                await late.commit()
        await engine.close()
        await runtime.close()

    loop.run(body())


def test_a_late_request_of_unknown_outcome_has_no_effect(etcd: EtcdLocal, loop: asyncio.Runner) -> None:
    """The first attempt's request is held back, the second succeeds, then the first one arrives."""

    async def body() -> None:
        runtime = RealRuntime()
        engine = await open_etcd(patient(etcd.config(f"test-{runtime.uuid().hex()}/")), runtime)
        write, held = engine.members.write, []

        async def hold(request: Any) -> Any:
            held.append(request)
            engine.members.write = write  # type: ignore[method-assign]
            raise KvMaybeCommitted("held back by the test")

        engine.members.write = hold  # type: ignore[method-assign]
        attempts = []

        async def blind(txn: Transaction) -> None:
            attempts.append(len(attempts))
            txn.set(b"a", b"%d" % len(attempts))

        await engine.transact(blind)
        assert attempts == [0, 1]
        late = await engine.members.write(held[0])
        assert not late.succeeded
        reader = engine.begin()
        assert await reader.get(b"a") == b"2"
        await engine.close()
        await runtime.close()

    loop.run(body())


def test_a_large_range_is_cleared_at_once_and_running_transactions_conflict(
    etcd: EtcdLocal, loop: asyncio.Runner
) -> None:
    async def body() -> None:
        runtime = RealRuntime()
        engine = await open_etcd(patient(etcd.config(f"test-{runtime.uuid().hex()}/")), runtime)
        for first in range(0, 300, 100):
            setup = engine.begin()
            for number in range(first, first + 100):
                setup.set(b"many/%03d" % number, b"")
            await setup.commit()
        running, clear = engine.begin(), engine.begin()
        assert await running.get(b"many/222") == b""
        clear.clear_range(b"many/", b"many0")
        clear.set(b"many/100", b"kept")
        await clear.commit()
        running.set(b"out", b"")
        with pytest.raises(KvConflict):
            await running.commit()
        reader = engine.begin()
        assert await reader.get_range(b"\x00", b"\xff") == [(b"many/100", b"kept")]
        assert [key for key in await raw_keys(engine) if key.startswith(b"k/")] == [b"k/many/100"]
        await engine.close()
        await runtime.close()

    loop.run(body())


def test_more_writes_than_the_members_take_are_explained(etcd: EtcdLocal, loop: asyncio.Runner) -> None:
    async def body() -> None:
        runtime = RealRuntime()
        engine = await open_etcd(patient(etcd.config(f"test-{runtime.uuid().hex()}/")), runtime)
        txn = engine.begin()
        for number in range(129):
            txn.set(b"%d" % number, b"")
        with pytest.raises(KvLimitError, match=r"129 keys.*128.*max-txn-ops"):
            await txn.commit()
        engine.ops_max = 1000  # a configuration that promises more than the members take
        txn = engine.begin()
        for number in range(129):
            txn.set(b"%d" % number, b"")
        with pytest.raises(KvLimitError, match="transaction_ops_max"):
            await txn.commit()
        await engine.close()
        await runtime.close()

    loop.run(body())


def test_clusters_that_are_not_there_are_named(loop: asyncio.Runner) -> None:
    (port,) = free_ports(1)
    config = KvConfig(engine="etcd", endpoints=[f"127.0.0.1:{port}"], request_timeout_s=0.2)
    with pytest.raises(KvUnavailable, match=f"127.0.0.1:{port}"):
        loop.run(open_engine(config, RealRuntime()))
    with pytest.raises(UserError, match=r"kv\.endpoints"):
        loop.run(open_engine(KvConfig(engine="etcd"), RealRuntime()))


@pytest.mark.parametrize(("victim_is", "end"), [("leader", signal.SIGKILL), ("current", signal.SIGSTOP)])
def test_a_member_dies_under_load(tmp_path: Path, loop: asyncio.Runner, victim_is: str, end: signal.Signals) -> None:
    """The leader is killed, or the member that the client talks to hangs; later it comes back."""

    async def body(cluster: EtcdLocal) -> None:
        runtime = RealRuntime()
        await cluster.wait_ready(runtime)
        engine = await open_etcd(cluster.config("load/"), runtime)
        stop, acknowledged = asyncio.Event(), []

        async def work(worker: int) -> None:
            number = 0
            while not stop.is_set():
                await engine.transact(lambda txn, name=b"%d/%04d" % (worker, number): once(txn, name), timeout_s=100)
                acknowledged.append(b"op/%d/%04d" % (worker, number))
                number += 1

        workers = [runtime.spawn(work(worker), name=f"worker-{worker}") for worker in range(3)]
        await reach(acknowledged, 30)
        victim = engine.members.current if victim_is == "current" else await leader(cluster)
        if end == signal.SIGKILL:
            cluster.stop(victim, end)
        else:
            cluster.processes[victim].send_signal(end)
        await reach(acknowledged, len(acknowledged) + 60)  # without it
        assert engine.members.current != victim
        if end == signal.SIGKILL:
            cluster.start(victim)
        else:
            cluster.processes[victim].send_signal(signal.SIGCONT)
        await reach(acknowledged, len(acknowledged) + 30)
        stop.set()
        await asyncio.gather(*workers)
        found = dict(await engine.read(lambda txn: txn.get_range(b"op/", b"op0"), timeout_s=100))
        assert set(acknowledged) == set(found)
        numbers = sorted(int(value) for value in found.values())
        assert numbers == list(range(len(found)))  # each took the next number: no update was lost
        await engine.close()
        await runtime.close()

    cluster = EtcdLocal(tmp_path / "etcd", free_ports(6))
    cluster.start()
    try:
        loop.run(body(cluster))
    finally:
        cluster.stop(signal_number=signal.SIGKILL)


async def leader(cluster: EtcdLocal) -> int:
    """The member that leads now; there may be none for a moment."""
    async with asyncio.timeout(100):
        while True:
            for member, endpoint in enumerate(cluster.endpoints):
                async with rpc.insecure_channel(endpoint) as channel:
                    status = await rpc.MaintenanceStub(channel).Status(rpc.StatusRequest())
                    if status.leader == status.header.member_id:
                        return member


async def once(txn: Transaction, name: bytes) -> None:
    """Idempotent, as every body must be: after an unknown outcome it finds its own record."""
    if await txn.get(b"op/" + name) is None:
        number = int(await txn.get(b"count") or b"0")
        txn.set(b"op/" + name, b"%d" % number)
        txn.set(b"count", b"%d" % (number + 1))


async def reach(acknowledged: list[bytes], count: int) -> None:
    async with asyncio.timeout(100):
        while len(acknowledged) < count:  # noqa: ASYNC110  (a list has no event)
            await asyncio.sleep(0.01)


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), max_size=30), st.integers(1, 6))
def test_merged_spans_cover_all_and_stay_few(pairs: list[tuple[bytes, bytes]], count_max: int) -> None:
    spans = RangeSet()
    for low, high in pairs:
        spans.add(min(low, high), max(low, high))
    merged = merge_spans(list(spans), count_max)
    assert len(merged) <= count_max
    for begin, end in spans:
        assert sum(low <= begin and end <= high for low, high in merged) == 1


def test_merged_spans_keep_prefixes_apart() -> None:
    spans = [(b"dirent/1", b"dirent/2"), (b"dirent/5", b"dirent/6"), (b"inode/1", b"inode/2"), (b"inode/7", b"inode/8")]
    assert merge_spans(spans, 2) == [(b"dirent/1", b"dirent/6"), (b"inode/1", b"inode/8")]
