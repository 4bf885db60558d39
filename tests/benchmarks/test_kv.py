"""The embedded store beside bare LMDB in the same run: durable commits, grouped puts, reads.

Bare LMDB is the `lmdb` package with the same sync at every commit. Nothing here asserts a time; the floors are ratios
far below what was measured, to catch a lost order of magnitude.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from threefs.common.kv.embedded import EmbeddedEngine
from threefs.common.kv.interface import Transaction
from threefs.common.runtime.real import RealRuntime
from threefs.workloads.bench.measure import Measurement, median_rate

pytestmark = pytest.mark.bench

MAP_BYTES = 1 << 30
VALUE = b"x" * 100
COMMITS = 200
WRITERS, PUTS = 100, 10  # transactions at once, each with so many puts
READS = 5000


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def show(measurement: Measurement) -> Measurement:
    print(
        f"\n{measurement.name}: {measurement.value:,.0f} {measurement.unit}, "
        f"{measurement.ceiling_name} {measurement.ceiling:,.0f}, ratio {measurement.ratio:.2f}"
    )
    return measurement


async def put(engine: EmbeddedEngine, writer: int, puts: int) -> None:
    async def body(txn: Transaction) -> None:
        for number in range(puts):
            txn.set(b"%04d/%06d" % (writer, number), VALUE)

    await engine.transact(body)


def bare_commits(env: lmdb.Environment, commits: int, puts: int) -> None:
    for commit in range(commits):
        with env.begin(write=True) as txn:
            for number in range(puts):
                txn.put(b"%04d/%06d" % (commit, number), VALUE)


def test_store_beside_bare_lmdb(tmp_path: Path, loop: asyncio.Runner) -> None:
    env = lmdb.open(str(tmp_path / "bare"), map_size=MAP_BYTES)
    engine = loop.run(EmbeddedEngine.open(RealRuntime(), tmp_path / "kv", MAP_BYTES))

    async def one_by_one() -> None:
        for number in range(COMMITS):
            await put(engine, number, 1)

    async def grouped() -> None:
        await asyncio.gather(*(put(engine, writer, PUTS) for writer in range(WRITERS)))

    async def read_all() -> None:
        txn = engine.begin()
        for number in range(READS):
            await txn.get(b"%04d/%06d" % (number % WRITERS, number % PUTS))
        txn.cancel()

    async def scan() -> None:
        txn = engine.begin()
        assert len(await txn.get_range(b"0", b"1")) >= WRITERS * PUTS
        txn.cancel()

    def bare_reads() -> None:
        with env.begin() as txn:
            for number in range(READS):
                txn.get(b"%04d/%06d" % (number % WRITERS, number % PUTS))

    def bare_scan() -> None:
        with env.begin() as txn:
            list(txn.cursor().iternext())

    single = show(
        Measurement(
            "one durable commit after the other",
            "commits/s",
            median_rate(COMMITS, lambda: loop.run(one_by_one())),
            median_rate(COMMITS, lambda: bare_commits(env, COMMITS, 1)),
            "bare LMDB",
        )
    )
    group = show(
        Measurement(
            f"{WRITERS} transactions of {PUTS} puts at once",
            "puts/s",
            median_rate(WRITERS * PUTS, lambda: loop.run(grouped())),
            median_rate(WRITERS * PUTS, lambda: bare_commits(env, 1, WRITERS * PUTS)),
            "bare LMDB in one transaction",
        )
    )
    reads = show(
        Measurement(
            "reads one after the other",
            "gets/s",
            median_rate(READS, lambda: loop.run(read_all())),
            median_rate(READS, bare_reads),
            "bare LMDB",
        )
    )
    scans = show(
        Measurement(
            "a range of a thousand keys",
            "pairs/s",
            median_rate(WRITERS * PUTS, lambda: loop.run(scan())),
            median_rate(WRITERS * PUTS, bare_scan),
            "bare LMDB",
        )
    )
    loop.run(engine.close())
    env.close()
    assert single.ratio > 0.02
    assert group.ratio > 0.02
    assert reads.ratio > 0.01
    assert scans.ratio > 0.02
