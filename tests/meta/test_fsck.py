"""The check of the namespace finds each kind of damage, and names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.meta.harness import CHUNK, Room

from threefs.client.meta.fsck import Namespace, check, find_problems, orphan_chunks, read_namespace
from threefs.client.meta.types import EntryRecord, GarbageRecord, LengthHint, SessionRecord
from threefs.common.files import FileType, Inode, Layout
from threefs.common.ids import ROOT_INODE, ChainId, ChainTableId, ChunkId, ClientId, InodeId, SessionId

pytestmark = pytest.mark.unit
D, E, F, S = (InodeId(n) for n in (0x20001, 0x20002, 0x20003, 0x20004))
NONE = InodeId(0)


def inode(id: InodeId, type: FileType, nlink: int, parent: InodeId = NONE) -> Inode:
    return Inode(id, type, 0o644, 0, 0, nlink, 0, 0, 0, 0, parent=parent)


def sound() -> Namespace:
    """/d/e, /d/f and its second name /d/g, a symlink /s."""
    inodes = (
        inode(ROOT_INODE, FileType.DIRECTORY, 3, ROOT_INODE),
        inode(D, FileType.DIRECTORY, 3, ROOT_INODE),
        inode(E, FileType.DIRECTORY, 2, D),
        inode(F, FileType.FILE, 2),
        inode(S, FileType.SYMLINK, 1),
    )
    entries = [
        EntryRecord(ROOT_INODE, b"d", D, FileType.DIRECTORY),
        EntryRecord(D, b"e", E, FileType.DIRECTORY),
        EntryRecord(D, b"f", F, FileType.FILE),
        EntryRecord(D, b"g", F, FileType.FILE),
        EntryRecord(ROOT_INODE, b"s", S, FileType.SYMLINK),
    ]
    return Namespace({i.id: i for i in inodes}, entries)


def damage(namespace: Namespace, id: InodeId, **changes: object) -> None:
    namespace.inodes[id] = replace(namespace.inodes[id], **changes)  # type: ignore[arg-type]


def _loop(n: Namespace) -> None:
    n.entries[0] = EntryRecord(E, b"d", D, FileType.DIRECTORY)
    damage(n, D, parent=E)
    damage(n, E, nlink=3)
    damage(n, ROOT_INODE, nlink=2)


CASES: dict[str, Callable[[Namespace], object]] = {
    "dangling-entry": lambda n: n.inodes.pop(S),
    "wrong-type": lambda n: damage(n, S, type=FileType.FIFO),
    "lost-entry": lambda n: n.entries.append(EntryRecord(InodeId(9), b"x", F, FileType.FILE)),
    "orphan-inode": lambda n: n.entries.pop(),
    "wrong-nlink": lambda n: damage(n, F, nlink=3),
    "wrong-parent": lambda n: damage(n, E, parent=ROOT_INODE),
    "directory-names": lambda n: n.entries.append(EntryRecord(ROOT_INODE, b"e2", E, FileType.DIRECTORY)),
    "unreachable": _loop,
    "named-garbage": lambda n: n.garbage.append(GarbageRecord(F, FileType.FILE, 0)),
    "lost-garbage": lambda n: n.garbage.append(GarbageRecord(InodeId(9), FileType.FILE, 0)),
    "lost-session": lambda n: n.sessions.append(SessionRecord(InodeId(9), SessionId(b""), ClientId(b""), 0)),
}


def test_a_sound_namespace() -> None:
    assert find_problems(sound()) == []


@pytest.mark.parametrize("kind", CASES)
def test_damage(kind: str) -> None:
    namespace = sound()
    CASES[kind](namespace)
    assert kind in {problem.kind for problem in find_problems(namespace)}


def test_a_wrong_directory_count() -> None:
    namespace = sound()
    damage(namespace, D, nlink=2)
    assert [problem.kind for problem in find_problems(namespace)] == ["wrong-nlink"]


def test_lengths_are_compared_with_storage(room: Room) -> None:
    async def body() -> None:
        opened = await room.client.create(ROOT_INODE, b"f")
        chains = opened.inode.layout.chains if opened.inode.layout else ()
        room.write(opened.inode.id, chains, 2 * CHUNK)
        assert (await check(room.client, room.storage)).problems == ()  # it is being written
        await room.client.close(opened.inode.id, opened.session, LengthHint(CHUNK, 0, 1))
        report = await check(room.client, room.storage)
        assert [problem.kind for problem in report.problems] == ["length"]
        await room.client.sync(opened.inode.id, None)
        report = await check(room.client, room.storage)
        assert (report.problems, report.files, report.directories, report.sessions) == ((), 1, 1, 0)

    room.run(body)


def test_garbage_is_counted_and_is_no_problem(room: Room) -> None:
    async def body() -> None:
        await room.client.mkdirs(ROOT_INODE, "/a/b/c")
        opened = await room.client.create(ROOT_INODE, "/a/f")
        await room.client.close(opened.inode.id, opened.session, None)
        await room.client.remove_recursive(ROOT_INODE, "a")
        report = await check(room.client, room.storage)
        assert (report.problems, report.garbage, report.directories) == ((), 1, 3)
        assert len((await read_namespace(room.client)).garbage) == 1

    room.run(body)


def test_orphan_chunks() -> None:
    layout = Layout(ChainTableId(1), 1, CHUNK, 1, (ChainId(1),))
    file = replace(inode(F, FileType.FILE, 1), layout=layout, length=CHUNK + 1)
    chunks = [ChunkId(F, 0), ChunkId(F, 1), ChunkId(F, 2), ChunkId(InodeId(9), 0)]
    assert orphan_chunks({F: file}, chunks) == chunks[2:]
