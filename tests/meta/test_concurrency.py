"""Many clients, two daemons, one store that conflicts, forgets and lies about commits.

Every client works on names of its own in directories that all share, and keeps a model of what it was told. In the end
the namespace must be sound and each client's files exactly as its model says. Each safeguard is also switched off once:
the same search must then find the damage.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from tests.meta.harness import CHUNK, Room

from threefs.client.meta.client import MetaClient
from threefs.client.meta.fsck import check
from threefs.client.meta.types import LengthHint, RenameFlags
from threefs.common.errors import FileError
from threefs.common.files import Inode
from threefs.common.ids import ROOT_INODE, InodeId
from threefs.common.kv.memory import MemoryFaults
from threefs.meta import context, resolve
from threefs.meta.ops import rename as rename_module
from threefs.meta.store import Outcome
from threefs.meta.view import View

pytestmark = pytest.mark.unit
FAULTS = MemoryFaults(conflict=0.03, too_old=0.01, maybe_committed=0.08, throttled=0.01, latency_s=0.004)
DIRECTORIES = ("/a", "/b", "/a/sub")


class Worker:
    """One client and its model: path -> (inode, length)."""

    def __init__(self, room: Room, number: int) -> None:
        self.room = room
        self.client: MetaClient = room.new_client()
        self.random = Random(f"{room.simulation.seed}/{number}")
        self.number = number
        self.files: dict[str, tuple[InodeId, int]] = {}
        self.serial = 0

    def fresh(self) -> str:
        self.serial += 1
        return f"{self.random.choice(DIRECTORIES)}/w{self.number}-{self.serial}"

    async def run(self, steps: int) -> None:
        steps_of = (self.create, self.create, self.rename, self.unlink, self.link, self.truncate, self.shared)
        for _ in range(steps):
            await self.random.choice(steps_of)()

    async def create(self) -> None:
        path = self.fresh()
        opened = await self.client.create(ROOT_INODE, path, flags=os.O_WRONLY | os.O_EXCL)
        length = self.random.randrange(3 * CHUNK)
        assert opened.inode.layout is not None
        self.room.write(opened.inode.id, opened.inode.layout.chains, length)
        hint = LengthHint(length, 0, 1) if self.random.random() < 0.7 else None
        await self.client.close(opened.inode.id, opened.session, hint)
        self.files[path] = (opened.inode.id, length)

    def pick(self) -> str | None:
        return self.random.choice(sorted(self.files)) if self.files else None

    async def rename(self) -> None:
        source, other = self.pick(), self.pick()
        if source is None or other is None:
            return
        kind = self.random.randrange(3)
        target = self.fresh() if kind == 0 else other
        flags = RenameFlags.EXCHANGE if kind == 1 else RenameFlags.NONE
        await self.client.rename(ROOT_INODE, source, ROOT_INODE, target, flags=flags)
        if kind == 1:
            self.files[source], self.files[target] = self.files[target], self.files[source]
        elif target not in self.files or self.files[target][0] != self.files[source][0]:
            self.files[target] = self.files.pop(source)

    async def unlink(self) -> None:
        path = self.pick()
        if path is not None:
            await self.client.unlink(ROOT_INODE, path)
            del self.files[path]

    async def link(self) -> None:
        path = self.pick()
        if path is not None:
            target = self.fresh()
            await self.client.link(self.files[path][0], ROOT_INODE, target)
            self.files[target] = self.files[path]

    async def truncate(self) -> None:
        path = self.pick()
        if path is not None:
            id = self.files[path][0]
            length = self.random.randrange(2 * CHUNK)
            await self.client.truncate(id, length)
            for other, (inode, _) in self.files.items():
                if inode == id:
                    self.files[other] = (id, length)

    async def shared(self) -> None:
        """Directories that everybody makes, moves and removes: the outcome depends on the others."""
        name = f"/a/shared{self.random.randrange(3)}"
        other = f"/b/shared{self.random.randrange(3)}"
        await self._shared_step(name, other)

    async def _shared_step(self, name: str, other: str) -> None:
        client, kind = self.client, self.random.randrange(6)
        try:
            if kind == 0:
                await client.mkdir(ROOT_INODE, name)
            elif kind == 1:
                await client.rmdir(ROOT_INODE, name)
            elif kind == 2:
                await client.rename(ROOT_INODE, name, ROOT_INODE, other)
            elif kind == 3:
                await client.rename(ROOT_INODE, other, ROOT_INODE, f"{name}/in")
            elif kind == 4:
                await client.remove_recursive(ROOT_INODE, other)
            else:
                await client.symlink(ROOT_INODE, f"{name}/x{self.number}", "y")
        except FileError as exc:
            if exc.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL, errno.ENOTDIR):
                raise

    async def compare(self) -> None:
        for path, (id, length) in self.files.items():
            found: Inode = await self.client.stat_path(path)
            assert (found.id, found.length) == (id, length), path


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
