"""Every engine, opened on a store of its own, for the conformance suite."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from threefs.common.kv.embedded import EmbeddedEngine
from threefs.common.kv.etcd_local import EtcdLocal
from threefs.common.kv.factory import KvConfig, open_engine
from threefs.common.kv.interface import KvEngine
from threefs.common.kv.memory import MemoryEngine
from threefs.common.net.ports import free_ports
from threefs.common.runtime.real import RealRuntime

T = TypeVar("T")


@dataclass
class Store:
    """An open engine and the loop that it lives on."""

    runner: asyncio.Runner
    engine: KvEngine
    open_again: Callable[[], Awaitable[KvEngine]]  # what a restarted process does

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def reopen(self) -> None:
        self.run(self._reopen())

    async def _reopen(self) -> None:
        await self.engine.close()
        self.engine = await self.open_again()


def _memory(runtime: RealRuntime) -> Callable[[], Awaitable[KvEngine]]:
    first = MemoryEngine(runtime)

    async def open_memory() -> KvEngine:
        return MemoryEngine(runtime, first.store)

    return open_memory


def _embedded(runtime: RealRuntime, folder: Path) -> Callable[[], Awaitable[KvEngine]]:
    async def open_embedded() -> KvEngine:
        return await EmbeddedEngine.open(runtime, folder, 1 << 30)

    return open_embedded


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdLocal]:
    """Three members with etcd's own limit of 128 operations a transaction. No pause of a busy machine makes them elect
    another leader, which would fail the requests under way."""
    cluster = EtcdLocal(tmp_path_factory.mktemp("etcd"), free_ports(6), transaction_ops_max=128, election_ms=3000)
    cluster.start()
    try:
        asyncio.run(cluster.wait_ready(RealRuntime()))
        yield cluster
    finally:
        cluster.stop()


def patient(config: KvConfig) -> KvConfig:
    """For members that do not die: a request that takes long is waited for, where a daemon would ask another one."""
    return config.model_copy(update={"request_timeout_s": 60.0})


def _etcd(runtime: RealRuntime, request: pytest.FixtureRequest) -> Callable[[], Awaitable[KvEngine]]:
    config = patient(request.getfixturevalue("etcd").config(f"test-{runtime.uuid().hex()}/"))

    async def open_etcd() -> KvEngine:
        return await open_engine(config, runtime)

    return open_etcd


@pytest.fixture(scope="session")
def fdb_standin(tmp_path_factory: pytest.TempPathFactory) -> tuple[ctypes.CDLL, Path]:
    """The stand-in for FoundationDB's client library, loaded before the binding looks for it, and a cluster file."""
    folder = tmp_path_factory.mktemp("fdb")
    library, cluster_file = folder / "libfdb_c.so", folder / "fdb.cluster"
    source = Path(__file__).parent / "fdb_standin" / "fdb_c.c"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["cc", *flags, "-Wl,-soname,libfdb_c.so", "-o", str(library), str(source)], check=True)
    cluster_file.write_text("standin:standin@127.0.0.1:0\n")
    return ctypes.CDLL(str(library)), cluster_file  # its name makes the binding find this one


def real_fdb() -> Path | None:
    """The cluster file of a FoundationDB that these tests may use, if there is one."""
    file = Path(os.environ.get("FDB_CLUSTER_FILE", "/etc/foundationdb/fdb.cluster"))
    return file if file.is_file() else None


def _fdb(runtime: RealRuntime, cluster_file: Path) -> Callable[[], Awaitable[KvEngine]]:
    config = KvConfig(engine="fdb", cluster_file=str(cluster_file), prefix=f"test-{runtime.uuid().hex()}/")

    async def open_fdb() -> KvEngine:
        return await open_engine(config, runtime)

    return open_fdb


# The binding loads one client library a process: `test_fdb.py` runs this suite in another one for a real cluster.
ENGINES = ["fdb"] if os.environ.get("THREEFS_TEST_FDB") else ["memory", "embedded", "etcd", "fdb-standin"]


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """One test's store on each engine."""
    with asyncio.Runner() as runner:
        runtime = RealRuntime()
        openers = {
            "memory": lambda: _memory(runtime),
            "embedded": lambda: _embedded(runtime, tmp_path / "kv"),
            "etcd": lambda: _etcd(runtime, request),
            "fdb-standin": lambda: _fdb(runtime, request.getfixturevalue("fdb_standin")[1]),
            "fdb": lambda: _fdb(runtime, real_fdb() or Path("fdb.cluster")),
        }
        opener = openers[request.param]()

        async def start() -> KvEngine:
            return await opener()

        async def stop() -> None:
            await store.engine.close()
            await runtime.close()

        store = Store(runner, runner.run(start()), opener)
        try:
            yield store
        finally:
            runner.run(stop())
