"""Inodes, directory entries and layouts as clients and the metadata service exchange them.

Times are microseconds since 1970. Permission bits are the lower 12 of st_mode.
"""

from __future__ import annotations

import enum
import stat
from dataclasses import dataclass, field

from threefs.common.ids import CHUNK_INDEX_MAX, ROOT_INODE, ChainId, ChainTableId, InodeId

NAME_BYTES_MAX = 255
SYMLINK_BYTES_MAX = 4095


class FileType(enum.IntEnum):
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHAR_DEVICE = 6
    BLOCK_DEVICE = 7


_MODE = {
    FileType.FILE: stat.S_IFREG,
    FileType.DIRECTORY: stat.S_IFDIR,
    FileType.SYMLINK: stat.S_IFLNK,
    FileType.FIFO: stat.S_IFIFO,
    FileType.SOCKET: stat.S_IFSOCK,
    FileType.CHAR_DEVICE: stat.S_IFCHR,
    FileType.BLOCK_DEVICE: stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the chunks of a file are. In a directory: the default for what is created in it.

    Chunk i is on the chain `chains[i % len(chains)]`; meta fills `chains` at creation with `stripe` chains of the
    table, picked and ordered by the documented shuffle. A directory's layout has no chains.
    """

    table: ChainTableId
    table_version: int  # 0 in a directory: the newest when a file is created
    chunk_bytes: int  # power of two, 64 KiB … 64 MiB
    stripe: int  # chains a file is spread over
    chains: tuple[ChainId, ...] = ()

    def chain_of(self, index: int) -> ChainId:
        assert 0 <= index <= CHUNK_INDEX_MAX, f"chunk index {index} out of range"
        return self.chains[index % len(self.chains)]


@dataclass(slots=True)
class Inode:
    """A record as it was at some moment; nobody changes one, `dataclasses.replace` makes another. (Not frozen, because
    a frozen class of sixteen fields takes three times as long to make, and every stat makes two.)"""

    id: InodeId
    type: FileType
    mode: int  # permission bits, setuid, setgid, sticky: lower 12 bits
    uid: int
    gid: int
    nlink: int
    length: int  # of a file: bytes; may lag while it is open for writing
    atime_us: int
    mtime_us: int
    ctime_us: int
    layout: Layout | None = None  # files, and directories with a default of their own
    parent: InodeId = InodeId(0)  # directories only
    symlink: str = ""
    rdev: int = 0
    truncate_version: int = 0  # grows with each truncate; a length hint from before it is ignored
    flags: int = 0

    @property
    def st_mode(self) -> int:
        return _MODE[self.type] | self.mode


@dataclass(frozen=True, slots=True)
class DirEntry:
    name: bytes
    inode: InodeId
    type: FileType


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. With authentication on, meta derives it from `token` and ignores the rest unless that is root's."""

    uid: int
    gid: int
    groups: tuple[int, ...] = field(default=())
    token: str = ""


@dataclass(frozen=True, slots=True)
class At:
    """A place: `path` resolved from `inode`; empty = the inode itself, one component = parent and name."""

    inode: InodeId = ROOT_INODE
    path: bytes | str = b""


@dataclass(frozen=True, slots=True)
class LengthHint:
    """The end of the furthest acknowledged write of this client while the file had `truncate_version`.

    `mtime_us` is when it last wrote, if it wrote since it last reported, else 0. If one of its writes failed, the
    client cannot know the length: it closes and syncs without a hint, and storage is asked.
    """

    length: int
    truncate_version: int
    mtime_us: int = 0


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
