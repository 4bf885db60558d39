"""What operations return beyond an inode."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from threefs.common.errors import FileError
from threefs.common.files import Inode
from threefs.common.ids import InodeId
from threefs.meta.context import Done


@dataclass(frozen=True, slots=True)
class Opened:
    inode: Inode
    created: bool
    session: bool  # a session was recorded


@dataclass(frozen=True, slots=True)
class Removed:
    inode: InodeId
    nlink: int  # names that are left


def present(done: Done) -> Inode:
    """The inode of a mutation; ENOENT if the request was a repeated one and its inode is gone by now."""
    outcome, inode = done
    if inode is None:
        raise FileError(errno.ENOENT, f"inode {outcome.inode:#x}, removed since")
    return inode
