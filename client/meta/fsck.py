"""Checks the namespace through the metadata service: `3fs fsck` and tests call it. Reads only.

Records are scanned page by page while others may write, so what seems wrong is looked for again in a second scan and
reported only if both scans saw it. The checks themselves (`find_problems`) are pure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from threefs.client.meta.client import MetaClient
from threefs.client.meta.scan import scan_entries, scan_garbage, scan_inodes, scan_sessions
from threefs.client.meta.types import EntryRecord, GarbageRecord, SessionRecord
from threefs.client.storage.types import StorageClient
from threefs.common.files import FileType, Inode
from threefs.common.ids import GC_ROOT_INODE, ROOT_INODE, ChunkId, InodeId

T = TypeVar("T")
_FIXED = (ROOT_INODE, GC_ROOT_INODE)
_LENGTHS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong. `kind` is a stable word for scripts, `text` a sentence for people."""

    kind: str
    inode: InodeId
    text: str


@dataclass(slots=True)
class Namespace:
    """Every record of the namespace, as of one scan."""

    inodes: dict[InodeId, Inode] = field(default_factory=dict)
    entries: list[EntryRecord] = field(default_factory=list)
    sessions: list[SessionRecord] = field(default_factory=list)
    garbage: list[GarbageRecord] = field(default_factory=list)

    @property
    def written(self) -> set[InodeId]:
        """Files that somebody holds open for writing: their recorded length may lag."""
        return {session.inode for session in self.sessions}


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found; `problems` is empty for a sound namespace."""

    problems: tuple[Problem, ...]
    files: int
    directories: int
    others: int  # symlinks, fifos, sockets, devices
    garbage: int
    sessions: int


async def read_namespace(client: MetaClient) -> Namespace:
    """One scan. Entries come before inodes: what is created between the two leaves no dangling entry."""
    found = Namespace(
        entries=await _all(scan_entries(client)),
        sessions=await _all(scan_sessions(client)),
    )
    found.inodes = {inode.id: inode for inode in await _all(scan_inodes(client))}
    found.garbage = await _all(scan_garbage(client))
    return found


async def check(client: MetaClient, storage: StorageClient | None = None) -> Report:
    """Scans, and scans again if something seems wrong. With `storage`, lengths are compared with chunks as well."""
    namespace = await read_namespace(client)
    problems = set(await _problems(namespace, storage))
    if problems:
        namespace = await read_namespace(client)
        problems &= set(await _problems(namespace, storage))
    kinds = [inode.type for inode in namespace.inodes.values() if inode.nlink and inode.id != GC_ROOT_INODE]
    files, directories = kinds.count(FileType.FILE), kinds.count(FileType.DIRECTORY)
    return Report(
        tuple(sorted(problems)),
        files,
        directories,
        len(kinds) - files - directories,
        len(namespace.garbage),
        len(namespace.sessions),
    )


def find_problems(namespace: Namespace) -> list[Problem]:
    """Everything that is wrong with the records alone."""
    return [
        *_entry_problems(namespace),
        *_link_problems(namespace),
        *_directory_problems(namespace),
        *_leftovers(namespace),
    ]


def orphan_chunks(inodes: Mapping[InodeId, Inode], chunks: Iterable[ChunkId]) -> list[ChunkId]:
    """Chunks whose file is gone, or that lie beyond its recorded length. `inodes` must have been read after the chunks
    were listed; chunks of files that are being written are not judged."""
    orphans = []
    for chunk in chunks:
        inode = inodes.get(chunk.inode)
        if inode is None or inode.layout is None or chunk.number * inode.layout.chunk_bytes >= inode.length:
            orphans.append(chunk)
    return orphans


async def length_problems(namespace: Namespace, storage: StorageClient) -> list[Problem]:
    """Files with more in storage than their length says. Files that are being written are left out."""
    written = namespace.written
    files = [i for i in namespace.inodes.values() if i.type is FileType.FILE and i.nlink and i.id not in written]
    problems: list[Problem] = []
    for start in range(0, len(files), _LENGTHS_AT_ONCE):
        page = files[start : start + _LENGTHS_AT_ONCE]
        ends = await asyncio.gather(*(_stored_end(inode, storage) for inode in page))
        problems += [
            Problem("length", inode.id, f"file {inode.id:#x} has length {inode.length}, storage has {end} bytes")
            for inode, end in zip(page, ends, strict=True)
            if end > inode.length
        ]
    return problems


async def _stored_end(inode: Inode, storage: StorageClient) -> int:
    layout = inode.layout
    if layout is None:
        return 0
    chains = list(dict.fromkeys(layout.chains))
    answers = await asyncio.gather(*(storage.query_last_chunk(chain, inode.id) for chain in chains))
    return max((a.index * layout.chunk_bytes + a.length for a in answers if a.index >= 0), default=0)


async def _problems(namespace: Namespace, storage: StorageClient | None) -> list[Problem]:
    found = find_problems(namespace)
    return found if storage is None else found + await length_problems(namespace, storage)


def _entry_problems(namespace: Namespace) -> list[Problem]:
    problems = []
    for entry in namespace.entries:
        where = f"{entry.parent:#x}/{entry.name.decode('utf-8', 'backslashreplace')}"
        inode = namespace.inodes.get(entry.inode)
        parent = namespace.inodes.get(entry.parent)
        if inode is None:
            problems.append(Problem("dangling-entry", entry.inode, f"{where} names inode {entry.inode:#x}: none there"))
        elif inode.type is not entry.type:
            text = f"{where} says {entry.type.name}, inode {entry.inode:#x} is a {inode.type.name}"
            problems.append(Problem("wrong-type", entry.inode, text))
        if parent is None or parent.type is not FileType.DIRECTORY:
            problems.append(Problem("lost-entry", entry.parent, f"{where} is in a directory that is not there"))
    return problems


def _link_problems(namespace: Namespace) -> list[Problem]:
    """Link counts: names of files, 2 + subdirectories of directories; 0 exactly for what is garbage."""
    names = dict.fromkeys(namespace.inodes, 0)
    subdirectories = dict.fromkeys(namespace.inodes, 0)
    for entry in namespace.entries:
        names[entry.inode] = names.get(entry.inode, 0) + 1
        if entry.type is FileType.DIRECTORY:
            subdirectories[entry.parent] = subdirectories.get(entry.parent, 0) + 1
    garbage = {record.inode for record in namespace.garbage}
    problems = []
    for inode in namespace.inodes.values():
        if inode.id in garbage:
            if inode.nlink or names[inode.id]:
                problems.append(Problem("named-garbage", inode.id, f"inode {inode.id:#x} is garbage and has names"))
            continue
        if not names[inode.id] and inode.id not in _FIXED:
            text = f"inode {inode.id:#x} ({inode.type.name}, {inode.length} bytes) has no name and is not garbage"
            problems.append(Problem("orphan-inode", inode.id, text))
            continue
        expected = 2 + subdirectories[inode.id] if inode.type is FileType.DIRECTORY else names[inode.id]
        if inode.nlink != expected:
            text = f"inode {inode.id:#x} has link count {inode.nlink}, should have {expected}"
            problems.append(Problem("wrong-nlink", inode.id, text))
    return problems


def _directory_problems(namespace: Namespace) -> list[Problem]:
    """Every directory has one name, in the directory that it names as its parent, and hangs on the root."""
    parents: dict[InodeId, list[InodeId]] = {}
    for entry in namespace.entries:
        if entry.type is FileType.DIRECTORY:
            parents.setdefault(entry.inode, []).append(entry.parent)
    problems = []
    for id, above in parents.items():
        inode = namespace.inodes.get(id)
        if len(above) > 1:
            problems.append(Problem("directory-names", id, f"directory {id:#x} has {len(above)} names"))
        elif inode is not None and inode.parent != above[0]:
            text = f"directory {id:#x} says its parent is {inode.parent:#x}, its name is in {above[0]:#x}"
            problems.append(Problem("wrong-parent", id, text))
    anchored = {*_FIXED, *(record.inode for record in namespace.garbage)}
    for id in parents:
        path: list[InodeId] = []
        at = id
        while at not in anchored and at in parents and at not in path:
            path.append(at)
            at = parents[at][0]
        if at in anchored:
            anchored.update(path)
        else:
            problems.append(Problem("unreachable", id, f"directory {id:#x} does not hang on the root"))
    return problems


def _leftovers(namespace: Namespace) -> list[Problem]:
    lost_sessions = [
        Problem("lost-session", s.inode, f"session {s.session.hex()} holds inode {s.inode:#x}, which is not there")
        for s in namespace.sessions
        if s.inode not in namespace.inodes
    ]
    lost_garbage = [
        Problem("lost-garbage", g.inode, f"garbage {g.inode:#x} is not there")
        for g in namespace.garbage
        if g.inode not in namespace.inodes
    ]
    return lost_sessions + lost_garbage


async def _all(records: AsyncIterator[T]) -> list[T]:
    return [record async for record in records]
