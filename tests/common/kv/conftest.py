"""Every engine, opened on a store of its own, for the conformance suite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from threefs.common.kv.embedded import EmbeddedEngine
from threefs.common.kv.interface import KvEngine
from threefs.common.kv.memory import MemoryEngine
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


ENGINES = ["memory", "embedded"]


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """One test's store on each engine."""
    with asyncio.Runner() as runner:
        runtime = RealRuntime()
        openers = {"memory": lambda: _memory(runtime), "embedded": lambda: _embedded(runtime, tmp_path / "kv")}
        opener = openers[request.param]()

        async def start() -> KvEngine:
            return await opener()

        async def stop() -> None:
            await store.engine.close()
            await runtime.close()

        store = Store(runner, runner.run(start()), opener)
        yield store
        runner.run(stop())
