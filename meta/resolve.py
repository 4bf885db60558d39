"""Path resolution inside a transaction, as path_resolution(7) has it.

Nothing that is passed on the way is guarded: an operation guards the directory and the name it ends at.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from threefs.common.errors import FileError
from threefs.common.files import NAME_BYTES_MAX, At, Credentials, FileType, Inode
from threefs.common.files_proto import path_bytes
from threefs.common.ids import ROOT_INODE, InodeId
from threefs.meta.access import EXECUTE, check
from threefs.meta.store import Entry
from threefs.meta.view import View

PATH_BYTES_MAX: Final = 4095
SYMLINKS_MAX: Final = 40  # followed in one resolution, as Linux
_DOTS: Final = (b".", b"..")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path ends: `name` in `parent`, with its entry if it exists.

    `name` is empty if the path ends at an inode as such (empty path, "/", "." or ".."): `parent` is that inode.
    `slash`: the path ended in "/", so only a directory will do.
    """

    parent: Inode
    name: bytes
    entry: Entry | None
    slash: bool = False

    def existing(self) -> Entry:
        """The entry, or ENOENT."""
        if self.entry is None:
            raise FileError(errno.ENOENT, self.subject)
        if self.slash and self.entry.type is not FileType.DIRECTORY:
            raise FileError(errno.ENOTDIR, self.subject)
        return self.entry

    def named(self, otherwise: int) -> Place:
        """Itself if it is a name in a directory, else the error `otherwise`."""
        if not self.name:
            raise FileError(otherwise, f"inode {self.parent.id:#x}")
        return self

    @property
    def subject(self) -> str:
        return self.name.decode("utf-8", "replace")


async def find(view: View, at: At, user: Credentials, *, follow: bool = False) -> Inode:
    """The inode that a path leads to, with everything that stat(2) shows; not guarded."""
    path = path_bytes(at.path)
    if not path:
        return await view.inode(at.inode or ROOT_INODE)
    if user.uid == 0 and b"/" not in path and path not in _DOTS and len(path) <= NAME_BYTES_MAX:
        # The hot path of mounts: root needs no look at the directory for a name that is there.
        entry = await view.entry(at.inode or ROOT_INODE, path)
        if entry is not None and not (follow and entry.type is FileType.SYMLINK):
            return await view.inode(entry.inode)
    place = await locate(view, at, user, follow=follow or path.endswith(b"/"))
    if not place.name:
        return await view.inode(place.parent.id)
    return await view.inode(place.existing().inode)


async def locate(view: View, at: At, user: Credentials, *, follow: bool = False) -> Place:
    """Where a path ends; with `follow`, a symlink at the end leads on to where it points."""
    path = path_bytes(at.path)
    if len(path) > PATH_BYTES_MAX:
        raise FileError(errno.ENAMETOOLONG, f"a path of {len(path)} bytes; {PATH_BYTES_MAX} at most")
    start = ROOT_INODE if path.startswith(b"/") else InodeId(at.inode or ROOT_INODE)
    current = await view.record(start)
    pending = _components(path)
    slash = path.endswith(b"/") and bool(pending)
    followed = 0
    while pending:
        name = pending.pop()
        _check_search(current, user, name)
        if name in _DOTS:
            current = current if name == b"." else await view.record(current.parent)
            continue
        entry = await view.entry(current.id, name)
        is_link = entry is not None and entry.type is FileType.SYMLINK
        if not pending and not (is_link and follow):
            return Place(current, name, entry, slash)
        if entry is None:
            raise FileError(errno.ENOENT, name.decode("utf-8", "replace"))
        target = await view.record(entry.inode)
        if not is_link:
            current = target
            continue
        followed += 1
        if followed > SYMLINKS_MAX:
            raise FileError(errno.ELOOP, path.decode("utf-8", "replace"))
        link = path_bytes(target.symlink)
        current = await view.record(ROOT_INODE) if link.startswith(b"/") else current
        slash = slash or (link.endswith(b"/") and not pending)
        pending.extend(_components(link))
    return Place(current, b"", None, slash)


def _components(path: bytes) -> list[bytes]:
    """The names of a path, last one first."""
    if b"/" not in path:
        return [path] if path else []
    names = [name for name in path.split(b"/") if name]
    names.reverse()
    return names


def _check_search(directory: Inode, user: Credentials, name: bytes) -> None:
    if directory.type is not FileType.DIRECTORY:
        raise FileError(errno.ENOTDIR, f"inode {directory.id:#x} on the way to {name.decode('utf-8', 'replace')}")
    if len(name) > NAME_BYTES_MAX:
        raise FileError(errno.ENAMETOOLONG, f"a name of {len(name)} bytes; {NAME_BYTES_MAX} at most")
    if b"\x00" in name:
        raise FileError(errno.EINVAL, "a name that contains a zero byte")
    check(directory, user, EXECUTE, name.decode("utf-8", "replace"))


async def ancestors(view: View, directory: InodeId, *, guard: bool = False) -> list[InodeId]:
    """A directory and everything above it, up to the root (or to where a removed tree is cut off)."""
    found = [directory]
    while True:
        parent = (await view.record(directory, guard=guard)).parent
        if parent == directory:
            return found
        directory = parent
        found.append(directory)
