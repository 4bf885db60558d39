"""After a power loss at any moment, the native engine has everything that it promised and nothing else.

A workload runs under the recorder; for prefixes of the recording, folders are built that a power loss may leave, the
engine is opened on each, and what it has is compared with what the workload was promised by then. Each safeguard
has its ablation: without the sync of block files, of LMDB's data or of its head, the same check must fail.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.native import engine_workload
from tests.native.engine_workload import TARGET
from tests.native.recorder import power_loss
from tests.native.recorder.power_loss import Disk, Event, Op

from threefs.common.errors import ThreefsError
from threefs.common.ids import ChunkId, InodeId
from threefs.storage.engine import ChunkMeta, ReadOp
from threefs.storage.native_engine import EngineOptions, NativeEngine

pytestmark = pytest.mark.native

ROUNDS = 60


class Lost(AssertionError):
    """A promise was broken."""


@dataclass
class Promise:
    """One chunk's contents by version, each attempt in order, and what is known to be on the disk."""

    attempts: dict[int, list[tuple[int, int, bool]]] = field(default_factory=dict)  # length, CRC, is a removal
    staged: int = 0  # acknowledged, and not aborted
    staged_attempt: int = 0  # earlier attempts at that version must not come back
    commit_asked: int = 0
    commit_durable: int = 0
    removed: int = 0  # version of the removal whose commit was asked for

    def check(self, meta: ChunkMeta | None, contents: dict[str, tuple[int, int]], finished: int) -> None:
        """`finished`: sequence of the newest update of this chunk that the engine remembers, which is a version."""
        expected = meta.committed if meta else self.removed
        if finished != expected:
            raise Lost(f"version {expected} is committed, the newest finished update is that of version {finished}")
        if self.removed and meta is None:
            return
        if self.removed and self.commit_durable >= self.removed:
            raise Lost(f"removed, but there again: {meta}")
        committed, pending = (meta.committed, meta.pending) if meta else (0, 0)
        if not self.commit_durable <= committed <= self.commit_asked:
            raise Lost(f"committed is {committed}, known durable {self.commit_durable}, asked {self.commit_asked}")
        if max(committed, pending) < self.staged:
            raise Lost(f"version {self.staged} was acknowledged, there are {committed} and {pending}")
        if committed:
            self._check_content(committed, (*contents["committed"], False))
        if meta and pending:
            self._check_content(pending, (*contents["pending"], meta.pending_remove))

    def _check_content(self, version: int, found: tuple[int, int, bool]) -> None:
        first = self.staged_attempt if version == self.staged else 0
        if found not in self.attempts.get(version, [])[first:]:
            raise Lost(f"version {version} has content that was never staged, or was replaced: {found}")


@dataclass
class Promises:
    target: bool = False
    chunks: dict[int, Promise] = field(default_factory=dict)

    def feed(self, event: Event) -> None:
        fields: dict[str, Any] = json.loads(event.text)
        match fields.get("ask") or fields["got"], "ask" in fields:
            case "target", False:
                self.target = True
            case "sync", False:
                for promise in self.chunks.values():
                    promise.commit_durable = promise.commit_asked
            case name, asked:
                promise = self.chunks.setdefault(fields["chunk"], Promise())
                getattr(self, f"_{'ask' if asked else 'got'}_{name}")(promise, fields)

    def _ask_stage(self, promise: Promise, fields: dict[str, Any]) -> None:
        attempt = (fields["length"], fields["crc"], fields["remove"])
        promise.attempts.setdefault(fields["version"], []).append(attempt)

    def _got_stage(self, promise: Promise, fields: dict[str, Any]) -> None:
        promise.staged = fields["version"]
        promise.staged_attempt = len(promise.attempts[promise.staged]) - 1

    def _ask_abort(self, promise: Promise, fields: dict[str, Any]) -> None:
        promise.staged, promise.staged_attempt = promise.commit_asked, 0

    def _ask_commit(self, promise: Promise, fields: dict[str, Any]) -> None:
        promise.commit_asked = fields["version"]
        if promise.attempts[promise.commit_asked][-1][2]:
            promise.removed = promise.commit_asked


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    return make_recording(tmp_path_factory.mktemp("recording"), seed=1)


def make_recording(folder: Path, seed: int) -> list[Event]:
    root = folder / "disk"
    root.mkdir()
    run = power_loss.record(
        Path(engine_workload.__file__),
        [str(root), str(seed), str(ROUNDS)],
        root=root,
        log=folder / "log",
        library=power_loss.build(folder),
    )
    assert run.returncode == 0, run.stderr
    return power_loss.load(folder / "log")


def points(events: list[Event], every: Callable[[int], bool], **options: Any) -> Iterator[tuple[int, Disk, Promises]]:
    """The disk and the promises after each event that `every` picks by its number."""
    disk, promises = Disk(**options), Promises()
    for number, event in enumerate(events):
        disk.feed(event)
        if event.op is Op.MARK:
            promises.feed(event)
        if every(number):
            yield number, disk, promises


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Images are built in memory where there is a /dev/shm: they are many and live for milliseconds."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def check_image(disk: Disk, promises: Promises, folder: Path, seed: str, mode: str) -> None:
    """Opens the engine on one folder that a power loss may leave; raises Lost."""
    disk.image(folder, Random(seed), mode=mode)
    try:
        asyncio.run(_check_engine(folder, promises))
    except ThreefsError as exc:
        raise Lost(f"{type(exc).__name__}: {exc}") from exc
    finally:
        shutil.rmtree(folder)


async def _check_engine(folder: Path, promises: Promises) -> None:
    engine = await NativeEngine.open(folder, EngineOptions(plain_io=True))
    try:
        if engine.recovery.dropped:
            raise Lost(f"dropped: {engine.recovery.dropped}")
        if TARGET not in engine.targets():
            if promises.target:
                raise Lost("the target is gone")
            return
        if finding := engine.audit():
            raise Lost(finding)
        finished = {item.ticket.channel: item.ticket.sequence for item in engine.finished(TARGET)}
        for number, promise in promises.chunks.items():
            chunk = ChunkId(InodeId(1), number)
            [meta] = await engine.query(TARGET, [chunk])
            contents = {
                "committed": await _content(engine, chunk, False),
                "pending": await _content(engine, chunk, True),
            }
            try:
                promise.check(meta, contents, finished.get(number, 0))
            except Lost as exc:
                raise Lost(f"chunk {number}: {exc}") from exc
    finally:
        await engine.close()


async def _content(engine: NativeEngine, chunk: ChunkId, pending: bool) -> tuple[int, int]:
    space = memoryview(bytearray(256 << 10))
    [result] = await engine.read([ReadOp(TARGET, chunk, 0, space, pending)])
    if result.error:
        raise Lost(f"{type(result.error).__name__}: {result.error}")
    return result.length, zlib.crc32(space[: result.length]) if result.length else 0


def test_the_recording_has_what_the_test_needs(recording: list[Event]) -> None:
    kinds = {event.op for event in recording}
    assert {Op.OPEN, Op.WRITE, Op.SYNC, Op.ALLOCATE, Op.MARK} <= kinds
    assert sum(event.op is Op.SYNC for event in recording) > 100
    promises = next(state for _, _, state in points(recording, lambda number: number == len(recording) - 1))
    assert any(promise.removed for promise in promises.chunks.values())
    assert sum(promise.commit_durable for promise in promises.chunks.values()) > 50
    assert any(len(attempts) > 1 for promise in promises.chunks.values() for attempts in promise.attempts.values())


def test_sampled_moments(recording: list[Event], scratch: Path) -> None:
    checked = 0
    for number, disk, promises in points(recording, lambda number: number % 11 == 3 or number < 40):
        for mode in ("random", "none") if number % 3 else ("random", "all"):
            try:
                check_image(disk, promises, scratch / "image", f"{number}", mode)
            except Lost as exc:
                raise AssertionError(f"power loss after event {number}, {mode} of the unsynced kept: {exc}") from exc
            checked += 1
    assert checked > 150


def find_violation(events: list[Event], scratch: Path, ignored: str) -> str:
    picked = points(events, lambda number: number % 7 == 0, ignore_sync=lambda name: name == ignored)
    for number, disk, promises in picked:
        try:
            check_image(disk, promises, scratch / "image", f"{number}", "random")
        except Lost as exc:
            return str(exc)
    return ""


@pytest.mark.parametrize("ignored", ["blocks-64k", "data.mdb", "data.mdb (O_DSYNC)", ""])
def test_without_one_sync_the_check_fails(recording: list[Event], scratch: Path, ignored: str) -> None:
    """ "" is the folder: without its sync, whole files are missing."""
    assert find_violation(recording, scratch, ignored)


def modes_at(event: Event) -> tuple[str, ...]:
    """Which images say something new: a sync changes nothing of what was written, a write nothing of what is synced."""
    if event.op is Op.MARK:
        return "random", "none", "all"
    if event.op is Op.SYNC:
        return "random", "random again", "none"
    if event.op is Op.WRITE and not event.is_durable:
        return "random", "random again", "all"
    return "random", "random again", "none", "all"


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 6))
def test_every_moment(tmp_path: Path, scratch: Path, seed: int) -> None:
    events = make_recording(tmp_path, seed)
    for number, disk, promises in points(events, lambda number: True):
        for mode in modes_at(events[number]):
            try:
                check_image(disk, promises, scratch / "image", f"{number} {mode}", mode.partition(" ")[0])
            except Lost as exc:
                raise AssertionError(f"seed {seed}, after event {number}, {mode}: {exc}") from exc
