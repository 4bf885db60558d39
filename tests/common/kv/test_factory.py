"""The `[kv]` section and what it opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from threefs.common.config import parse
from threefs.common.errors import UserError
from threefs.common.kv import factory
from threefs.common.kv.errors import KvUnavailable
from threefs.common.kv.factory import KvConfig, await_engine
from threefs.common.kv.interface import KvEngine
from threefs.common.kv.memory import MemoryEngine
from threefs.common.runtime.simulated import Simulation

pytestmark = pytest.mark.unit


def test_a_section_is_read_from_toml() -> None:
    text = 'engine = "etcd"\nendpoints = ["a:1", "b:2"]\nprefix = "meta/"\nrequest_timeout_s = 3'
    config = parse(text, KvConfig, where="meta.toml")
    assert config == KvConfig(engine="etcd", endpoints=["a:1", "b:2"], prefix="meta/", request_timeout_s=3.0)
    assert parse("", KvConfig, where="meta.toml").engine == "embedded"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('engine = "redis"', r"meta\.toml:1: engine"),
        ("endpoint = []", r"unknown key 'endpoint'"),
        ("map_bytes_max = 5", r"map_bytes_max = 5"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text, KvConfig, where="meta.toml")


SCRIPT = """
import asyncio, sys
sys.modules["aetcd"] = None
from threefs.common.kv.errors import KvUnavailable
from threefs.common.kv.factory import KvConfig, open_engine
from threefs.common.runtime.real import RealRuntime
assert not {"fdb", "grpc"} & set(sys.modules)
async def main():
    store = await open_engine(KvConfig(path=sys.argv[1]), RealRuntime())
    await store.close()
    try:
        await open_engine(KvConfig(engine="etcd", endpoints=["127.0.0.1:1"]), RealRuntime())
    except KvUnavailable as exc:
        print(exc)
asyncio.run(main())
"""


def test_only_the_engine_that_is_asked_for_needs_its_package(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
    assert 'pip install "threefs[etcd]"' in done.stdout


@pytest.mark.parametrize(
    ("engine", "up_after_s", "opens"), [("etcd", 50, True), ("etcd", 70, False), ("fdb", 1, False)]
)
def test_a_daemon_waits_for_etcd_that_starts_with_it(
    monkeypatch: pytest.MonkeyPatch, engine: Literal["etcd", "fdb"], up_after_s: float, opens: bool
) -> None:
    simulation = Simulation(1)
    runtime = simulation.runtime("mgmtd")
    store = MemoryEngine(runtime)

    async def open_engine(config: KvConfig, _: object) -> KvEngine:
        if runtime.now() < up_after_s:
            raise KvUnavailable("no member answers") from TimeoutError()
        return store

    async def main() -> None:
        wanted = KvConfig(engine=engine, endpoints=["a:1"])
        if opens:
            assert await await_engine(wanted, runtime) is store
        else:
            with pytest.raises(KvUnavailable):
                await await_engine(wanted, runtime)

    monkeypatch.setattr(factory, "open_engine", open_engine)
    simulation.run(main())
