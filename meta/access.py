"""Permissions: who may do what, by mode bits and groups, as Linux decides for a local file system. Pure.

uid 0 may do everything. There are no POSIX ACL entries.
"""

from __future__ import annotations

import errno
import stat
from typing import Final

from threefs.common.errors import FileError
from threefs.common.files import Credentials, FileType, Inode

READ: Final = 4
WRITE: Final = 2
EXECUTE: Final = 1


def in_group(user: Credentials, gid: int) -> bool:
    return gid == user.gid or gid in user.groups


def may(inode: Inode, user: Credentials, want: int) -> bool:
    """True if `user` has all of the `want` bits (READ, WRITE, EXECUTE: search in a directory)."""
    if user.uid == 0:
        return True
    if user.uid == inode.uid:
        granted = inode.mode >> 6
    elif in_group(user, inode.gid):
        granted = inode.mode >> 3
    else:
        granted = inode.mode
    return granted & want == want


def check(inode: Inode, user: Credentials, want: int, subject: str = "") -> None:
    """Raises EACCES unless `may`."""
    if not may(inode, user, want):
        raise FileError(errno.EACCES, subject or f"inode {inode.id:#x}")


def check_owner(inode: Inode, user: Credentials) -> None:
    """Raises EPERM for whoever is neither the owner nor root."""
    if user.uid not in (0, inode.uid):
        raise FileError(errno.EPERM, f"inode {inode.id:#x} belongs to uid {inode.uid}")


def check_removal(directory: Inode, victim: Inode, user: Credentials, name: bytes) -> None:
    """May `user` take the name of `victim` out of `directory`: write and search, and the sticky bit's owners."""
    check(directory, user, WRITE | EXECUTE)
    if directory.mode & stat.S_ISVTX and user.uid not in (0, directory.uid, victim.uid):
        raise FileError(errno.EPERM, name.decode("utf-8", "replace"))


def new_owner(directory: Inode, user: Credentials, type: FileType, mode: int) -> tuple[int, int, int]:
    """(uid, gid, mode) of something that `user` creates in `directory`: the group of a setgid directory is inherited,
    by a subdirectory with the bit; a file with setgid and group execution loses the bit for whoever is outside."""
    if not directory.mode & stat.S_ISGID:
        return user.uid, user.gid, mode
    if type is FileType.DIRECTORY:
        return user.uid, directory.gid, mode | stat.S_ISGID
    both = stat.S_ISGID | stat.S_IXGRP
    if mode & both == both and user.uid != 0 and not in_group(user, directory.gid):
        mode &= ~stat.S_ISGID
    return user.uid, directory.gid, mode


def without_privileges(mode: int) -> int:
    """Mode of a file whose content or owner changes: setuid goes, setgid too where the group may execute."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode
