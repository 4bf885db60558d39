"""Many clients, two daemons, one store that conflicts, forgets and lies about commits.

Every client works on names of its own in directories that all share, and keeps a model of what it was told. In the end
the namespace must be sound and each client's files exactly as its model says. Each safeguard is also switched off once:
the same search must then find the damage.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

import pytest
from tests.meta.harness import Room
from tests.meta.worker import DIRECTORIES, Worker

from threefs.client.meta.fsck import check
from threefs.common.errors import FileError
from threefs.common.ids import ROOT_INODE, InodeId
from threefs.common.kv.memory import MemoryFaults
from threefs.meta import context, resolve
from threefs.meta.ops import rename as rename_module
from threefs.meta.store import Outcome
from threefs.meta.view import View

pytestmark = pytest.mark.unit
FAULTS = MemoryFaults(conflict=0.03, too_old=0.01, maybe_committed=0.08, throttled=0.01, latency_s=0.004)


def _race(seed: int, *, steps: int = 60) -> tuple[str, ...]:
    """Runs one seed; the kinds of problems that the check of the namespace found."""
    room = Room(seed=seed, daemons=2, faults=FAULTS)

    async def main() -> tuple[str, ...]:
        await room.start()
        for directory in DIRECTORIES:
            await room.client.mkdirs(ROOT_INODE, directory)
        workers = [Worker(room, number) for number in range(4)]
        await asyncio.gather(_collect_meanwhile(room, 40), *(worker.run(steps) for worker in workers))
        for daemon in room.daemons:
            daemon.engine.faults = MemoryFaults()
        await room.collect()
        report = await check(room.client, room.storage)
        if not report.problems:
            for worker in workers:
                await worker.compare()
            names = {id for worker in workers for id, _ in worker.files.values()}
            assert {key[1] for key in room.storage.chunks} <= names, "chunks without a file"
            assert report.garbage == report.sessions == 0
        return tuple(problem.kind for problem in report.problems)

    return room.simulation.run(main())


async def _collect_meanwhile(room: Room, rounds: int) -> None:
    for _ in range(rounds):
        await asyncio.gather(*(daemon.collector.round() for daemon in room.daemons))
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("seed", range(6))
def test_the_namespace_stays_sound(seed: int) -> None:
    assert _race(seed) == ()


def _search(race: Callable[[int], tuple[str, ...]], seeds: int = 20) -> tuple[str, ...]:
    """What the first seed finds that finds anything; a failed comparison counts."""
    for seed in range(seeds):
        try:
            problems = race(seed)
        except (AssertionError, FileError) as exc:
            return (type(exc).__name__,)
        if problems:
            return problems
    return ()


def test_without_request_records_the_search_finds_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context.store, "pack_outcome", lambda outcome: b"")
    monkeypatch.setattr(context.store, "unpack_outcome", _forgotten)
    assert _search(_race)


def _forgotten(raw: bytes) -> Outcome:
    raise FileError(errno.EEXIST, "the record of this request is lost")


def test_without_the_empty_directory_guard_the_search_finds_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unguarded(self: View, directory: InodeId) -> bool:
        return not await self.entries(directory, limit=1)

    monkeypatch.setattr(View, "is_empty", unguarded)
    monkeypatch.setattr(View, "guard_inode", lambda self, id: None)
    assert _search(_race_for_empty_directories)


def _race_for_empty_directories(seed: int) -> tuple[str, ...]:
    room = Room(seed=seed, daemons=2, faults=MemoryFaults(latency_s=0.01))

    async def attempt(work: Awaitable[object]) -> None:
        try:
            await work
        except FileError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise

    async def main() -> tuple[str, ...]:
        await room.start()
        for number in range(10):
            made = await room.client.mkdir(ROOT_INODE, f"d{number}")

            async def create_a_little_later(directory: InodeId = made.id) -> None:
                await asyncio.sleep(room.simulation.random.random() * 0.05)
                await room.client.symlink(directory, "s", "t")

            await asyncio.gather(attempt(room.client.rmdir(ROOT_INODE, f"d{number}")), attempt(create_a_little_later()))
        report = await check(room.client)
        names = {item.entry.name async for item in room.client.list_all(ROOT_INODE)}
        lost = sum(f"d{number}".encode() not in names for number in range(10))
        assert 0 < lost < 10, "one side always wins: the race is none"
        return tuple(problem.kind for problem in report.problems)

    return room.simulation.run(main())


def test_rmdir_and_create_exclude_each_other() -> None:
    assert _search(_race_for_empty_directories, seeds=5) == ()


def _race_for_loops(seed: int) -> tuple[str, ...]:
    room = Room(seed=seed, daemons=2, faults=MemoryFaults(latency_s=0.01))

    async def move(source: str, target: str) -> None:
        try:
            await room.client.rename(ROOT_INODE, source, ROOT_INODE, target)
        except FileError as exc:
            if exc.errno not in (errno.ENOENT, errno.EINVAL):
                raise

    async def main() -> tuple[str, ...]:
        await room.start()
        for number in range(10):
            left, right = f"/{number}/p/a", f"/{number}/q/b"
            await room.client.mkdirs(ROOT_INODE, f"{left}/x")
            await room.client.mkdirs(ROOT_INODE, f"{right}/y")
            await asyncio.gather(move(left, f"{right}/y/a"), move(right, f"{left}/x/b"))
        return tuple(problem.kind for problem in (await check(room.client)).problems)

    return room.simulation.run(main())


def test_renames_never_cut_a_loop_off() -> None:
    assert _search(_race_for_loops, seeds=5) == ()


def test_without_the_guard_of_ancestors_the_search_finds_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unguarded(view: View, directory: InodeId, *, guard: bool = False) -> list[InodeId]:
        return await resolve.ancestors(view, directory)

    monkeypatch.setattr(rename_module, "ancestors", unguarded)
    assert "unreachable" in _search(_race_for_loops)
