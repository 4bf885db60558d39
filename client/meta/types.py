"""What callers of the metadata client hand in and get back, beyond `common.files`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from threefs.common.files import DirEntry, FileType, Inode
from threefs.common.ids import ROOT_INODE, ClientId, InodeId, NodeId, SessionId


@dataclass(frozen=True, slots=True)
class MetaNode:
    """A metadata daemon that can be asked."""

    id: NodeId
    address: str


@dataclass(frozen=True, slots=True)
class At:
    """A place: `path` resolved from `inode`; empty = the inode itself, one component = parent and name."""

    inode: InodeId = ROOT_INODE
    path: bytes | str = b""


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file. `session` must be closed; None if nothing was recorded (opened for reading)."""

    inode: Inode
    session: SessionId | None
    created: bool = False


@dataclass(frozen=True, slots=True)
class LengthHint:
    """The end of the furthest acknowledged write of this client while the file had `truncate_version`.

    `mtime_us` is when it last wrote, if it wrote since it last reported, else 0. If one of its writes failed, the
    client cannot know the length: it closes and syncs without a hint, and storage is asked.
    """

    length: int
    truncate_version: int
    mtime_us: int = 0


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


class RemoveKind(enum.IntEnum):
    FILE = 0
    DIRECTORY = 1
    RECURSIVE = 2


class RenameFlags(enum.IntFlag):
    """As renameat2(2)."""

    NONE = 0
    NOREPLACE = 1
    EXCHANGE = 2


class XattrFlags(enum.IntFlag):
    """As setxattr(2)."""

    NONE = 0
    CREATE = 1
    REPLACE = 2


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
