"""Steps that several operations share: give a new inode a name, take a name away. Each adds the guards it relies on."""

from __future__ import annotations

import errno
import stat as bits
from dataclasses import replace
from typing import Final

from threefs.common.errors import FileError
from threefs.common.files import FileType, Inode, Layout
from threefs.common.ids import GC_ROOT_INODE, InodeId
from threefs.meta.access import EXECUTE, WRITE, check, new_owner
from threefs.meta.context import Context
from threefs.meta.layout import merge_layout
from threefs.meta.resolve import Place
from threefs.meta.store import Entry, garbage_for
from threefs.meta.view import View

NLINK_MAX: Final = 65000  # as ext4
_MODE_BITS: Final = {
    FileType.DIRECTORY: 0o777 | bits.S_ISVTX,  # mkdir(2) takes no setuid and setgid; the latter is inherited
    FileType.SYMLINK: 0o777,
}


def check_free(ctx: Context, place: Place, *, taken: int = errno.EEXIST) -> Inode:
    """The directory, if a new name may be created at this place: free, directory not removed, permission there."""
    parent = place.named(taken).parent
    if place.entry is not None:
        raise FileError(taken, place.subject)
    check_parent(ctx, parent, place.subject)
    return parent


def check_parent(ctx: Context, parent: Inode, subject: str) -> None:
    """May the user create names in this directory, and is it one that is still there."""
    if parent.nlink == 0:
        raise FileError(errno.ENOENT, subject)
    check(parent, ctx.user, WRITE | EXECUTE, subject)


def new_inode(
    ctx: Context,
    parent: Inode,
    id: InodeId,
    type: FileType,
    mode: int,
    *,
    wanted: Layout | None = None,
    symlink: str = "",
    rdev: int = 0,
) -> Inode:
    """An inode of the requesting user in `parent`: owner, group and mode by the rules, layout inherited."""
    uid, gid, mode = new_owner(parent, ctx.user, type, mode & _MODE_BITS.get(type, 0o7777))
    layout: Layout | None = None
    above = InodeId(0)
    nlink = 1
    if type is FileType.DIRECTORY:
        layout = merge_layout(wanted, inherited_layout(parent))
        above, nlink = parent.id, 2
    elif type is FileType.FILE:
        layout = ctx.env.layouts.file_layout(merge_layout(wanted, inherited_layout(parent)), seed=id)
    now = ctx.now_us
    return Inode(id, type, mode, uid, gid, nlink, 0, now, now, now, layout, above, symlink, rdev)


def inherited_layout(directory: Inode) -> Layout:
    assert directory.layout is not None, f"directory {directory.id:#x} has no layout"
    return directory.layout


def add_new(ctx: Context, view: View, place: Place, inode: Inode) -> None:
    """Stores a new inode under a free name. Relies on: the directory's record, the name."""
    parent = place.parent
    view.guard_inode(parent.id)
    view.guard_entry(parent.id, place.name)
    view.put_inode(inode)
    view.put_entry(parent.id, place.name, Entry(inode.id, inode.type))
    view.touch(parent.id, ctx.now_us)
    if inode.type is FileType.DIRECTORY:
        if parent.nlink >= NLINK_MAX:
            raise FileError(errno.EMLINK, place.subject)
        view.put_inode(replace(parent, nlink=parent.nlink + 1))


def drop_link(ctx: Context, view: View, victim: Inode, *, delay: bool = True) -> Inode:
    """One name less for something that is no directory; `victim` must have been read with its guard.

    Without a name left, its inode waits for the collector (a symlink, which nobody can hold open, goes at once).
    """
    left = replace(victim, nlink=victim.nlink - 1, ctime_us=ctx.now_us)
    if left.nlink == 0 and victim.type is FileType.SYMLINK:
        view.erase_inode(victim)
        return left
    view.put_inode(left)
    if left.nlink == 0:
        discard(ctx, view, left, delay=delay)
    return left


def drop_directory(ctx: Context, view: View, victim: Inode, *, delay: bool = True) -> Inode:
    """Cuts a directory off; `victim` must have been read with its guard. Its parent's link count is the caller's."""
    left = replace(victim, nlink=0, parent=GC_ROOT_INODE, ctime_us=ctx.now_us)
    view.put_inode(left)
    discard(ctx, view, left, delay=delay)
    return left


def discard(ctx: Context, view: View, inode: Inode, *, delay: bool) -> None:
    """Hands an inode without names to the collector."""
    delay_s = ctx.env.config.garbage.file_delay_s if delay else 0.0
    view.put_garbage(garbage_for(inode.id, inode.type, ctx.now_us + int(delay_s * 1e6)))
    if not delay_s:
        ctx.env.wake_collector()
