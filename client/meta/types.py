"""What callers of the metadata client hand in and get back, beyond `common.files`."""

from __future__ import annotations

from dataclasses import dataclass

from threefs.common.files import At, DirEntry, FileType, Inode, LengthHint, RemoveKind, RenameFlags, XattrFlags
from threefs.common.ids import ClientId, InodeId, NodeId, SessionId

__all__ = [
    "At",
    "EntryRecord",
    "FsSpace",
    "GarbageRecord",
    "LengthHint",
    "ListedEntry",
    "Listing",
    "MetaNode",
    "Opened",
    "RemoveKind",
    "RenameFlags",
    "SessionRecord",
    "User",
    "XattrFlags",
]


@dataclass(frozen=True, slots=True)
class MetaNode:
    """A metadata daemon that can be asked."""

    id: NodeId
    address: str


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file. `session` must be closed; None if nothing was recorded (opened for reading)."""

    inode: Inode
    session: SessionId | None
    created: bool = False


@dataclass(frozen=True, slots=True)
class ListedEntry:
    entry: DirEntry
    inode: Inode | None  # None if attributes were not asked for, or the file went away meanwhile


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a directory in name order. `more`: go on after the last entry's name."""

    entries: list[ListedEntry]
    more: bool


@dataclass(frozen=True, slots=True)
class FsSpace:
    capacity_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class User:
    """An account. `root` may act for any uid, `admin` may change accounts and configuration."""

    uid: int
    name: str
    gid: int
    groups: tuple[int, ...] = ()
    root: bool = False
    admin: bool = False
    token_ends_us: tuple[int, ...] = ()  # one for each live token; 0: no end


@dataclass(frozen=True, slots=True)
class SessionRecord:
    inode: InodeId
    session: SessionId
    client: ClientId
    created_us: int


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """A directory entry as it is stored: `parent` is the directory that holds it."""

    parent: InodeId
    name: bytes
    inode: InodeId
    type: FileType


@dataclass(frozen=True, slots=True)
class GarbageRecord:
    """Something that waits for the collector."""

    inode: InodeId
    type: FileType
    due_us: int
