"""rename, with renameat2(2)'s NOREPLACE and EXCHANGE.

Relies on: both names, both directories' records, both inodes' records; that a directory which is replaced stays empty;
and, where a directory changes its parent, the record of every directory above the destination: two renames that
together would cut a loop off the tree conflict, because each writes the record of the directory that it moves.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode, RenameFlags
from threefs.common.ids import InodeId
from threefs.meta.access import WRITE, check, check_removal
from threefs.meta.changes import check_parent, drop_directory, drop_link
from threefs.meta.context import Context, Done
from threefs.meta.ops.result import present
from threefs.meta.resolve import Place, ancestors, locate
from threefs.meta.store import Entry, Outcome
from threefs.meta.view import View


@dataclass(frozen=True, slots=True)
class _Move:
    """What one rename is about; inodes are read with their guards."""

    source: Place
    target: Place
    moved: Inode
    victim: Inode | None  # what has the new name now
    exchange: bool

    @property
    def across(self) -> bool:
        return self.source.parent.id != self.target.parent.id


async def rename(ctx: Context, source: At, target: At, *, flags: RenameFlags = RenameFlags.NONE) -> Inode:
    """The inode that has the new name now."""
    if flags & ~(RenameFlags.NOREPLACE | RenameFlags.EXCHANGE) or flags == RenameFlags.NOREPLACE | RenameFlags.EXCHANGE:
        raise FileError(errno.EINVAL, f"rename flags {int(flags):#x}")

    async def body(view: View) -> Done:
        move = await _read(ctx, view, source, target, flags)
        if move.victim is not None and move.victim.id == move.moved.id:
            return Outcome(move.moved.id, move.moved.nlink), move.moved  # two names of one inode: nothing to do
        await _refuse_loops(view, move)
        await _check(ctx, view, move)
        moved = _exchange(ctx, view, move) if move.exchange else _replace(ctx, view, move)
        await _recount(view, move)
        return Outcome(moved.id, moved.nlink), moved

    return present(await ctx.mutate(body))


async def _read(ctx: Context, view: View, source: At, target: At, flags: RenameFlags) -> _Move:
    old = (await locate(view, source, ctx.user)).named(errno.EBUSY)
    new = (await locate(view, target, ctx.user)).named(errno.EBUSY)
    moved = await view.inode(old.existing().inode, guard=True)
    if new.entry is not None and flags & RenameFlags.NOREPLACE:
        raise FileError(errno.EEXIST, new.subject)
    if new.slash and moved.type is not FileType.DIRECTORY:
        raise FileError(errno.ENOTDIR, new.subject)
    exchange = bool(flags & RenameFlags.EXCHANGE)
    entry = new.existing() if exchange else new.entry
    victim = None if entry is None else await view.inode(entry.inode, guard=True)
    for place in (old, new):
        view.guard_inode(place.parent.id)
        view.guard_entry(place.parent.id, place.name)
    return _Move(old, new, moved, victim, exchange)


async def _refuse_loops(view: View, move: _Move) -> None:
    if not move.across:
        return
    if move.moved.type is FileType.DIRECTORY:
        above = await ancestors(view, move.target.parent.id, guard=True)
        if move.moved.id in above:
            raise FileError(errno.EINVAL, f"{move.source.subject} into itself")
    if move.victim is not None and move.victim.type is FileType.DIRECTORY:
        above = await ancestors(view, move.source.parent.id, guard=True)
        if move.victim.id in above:
            raise FileError(errno.EINVAL if move.exchange else errno.ENOTEMPTY, move.target.subject)


async def _check(ctx: Context, view: View, move: _Move) -> None:
    """Permissions and kinds, in the order in which Linux asks."""
    check_removal(move.source.parent, move.moved, ctx.user, move.source.name)
    if move.victim is None:
        check_parent(ctx, move.target.parent, move.target.subject)
    else:
        check_removal(move.target.parent, move.victim, ctx.user, move.target.name)
        if not move.exchange:
            await _check_kinds(view, move.moved, move.victim, move.target.subject)
    for inode in (move.moved, move.victim if move.exchange else None):
        if inode is not None and inode.type is FileType.DIRECTORY and move.across:
            check(inode, ctx.user, WRITE)  # its ".." changes


async def _check_kinds(view: View, moved: Inode, victim: Inode, subject: str) -> None:
    if moved.type is FileType.DIRECTORY and victim.type is not FileType.DIRECTORY:
        raise FileError(errno.ENOTDIR, subject)
    if moved.type is not FileType.DIRECTORY and victim.type is FileType.DIRECTORY:
        raise FileError(errno.EISDIR, subject)
    if victim.type is FileType.DIRECTORY and not await view.is_empty(victim.id):
        raise FileError(errno.ENOTEMPTY, subject)


def _replace(ctx: Context, view: View, move: _Move) -> Inode:
    view.clear_entry(move.source.parent.id, move.source.name)
    view.touch(move.source.parent.id, ctx.now_us)
    if move.victim is not None:
        drop = drop_directory if move.victim.type is FileType.DIRECTORY else drop_link
        drop(ctx, view, move.victim)
    return _settle(ctx, view, move.moved, move.target)


def _exchange(ctx: Context, view: View, move: _Move) -> Inode:
    assert move.victim is not None, "an exchange has two inodes"
    _settle(ctx, view, move.victim, move.source)
    return _settle(ctx, view, move.moved, move.target)


def _settle(ctx: Context, view: View, inode: Inode, place: Place) -> Inode:
    """Gives `inode` the name at `place`."""
    above = place.parent.id if inode.type is FileType.DIRECTORY else InodeId(0)
    settled = replace(inode, ctime_us=ctx.now_us, parent=above)
    view.put_inode(settled)
    view.put_entry(place.parent.id, place.name, Entry(settled.id, settled.type))
    view.touch(place.parent.id, ctx.now_us)
    return settled


async def _recount(view: View, move: _Move) -> None:
    """Link counts of the two directories."""
    change = {move.source.parent.id: 0, move.target.parent.id: 0}
    if move.moved.type is FileType.DIRECTORY:
        change[move.source.parent.id] -= 1
        change[move.target.parent.id] += 1
    if move.victim is not None and move.victim.type is FileType.DIRECTORY:
        change[move.target.parent.id] -= 1
        if move.exchange:
            change[move.source.parent.id] += 1
    for id, difference in change.items():
        if difference:
            parent = await view.record(id)
            view.put_inode(replace(parent, nlink=parent.nlink + difference))
