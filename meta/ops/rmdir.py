"""rmdir: removes an empty directory.

Relies on: the name, both directories' records, and that nothing is created in the directory meanwhile.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from threefs.common.errors import FileError
from threefs.common.files import At, FileType
from threefs.common.ids import ROOT_INODE
from threefs.meta.access import check_removal
from threefs.meta.changes import drop_directory
from threefs.meta.context import Context, Done
from threefs.meta.locks import directory_of
from threefs.meta.ops.result import Removed
from threefs.meta.resolve import Place, locate
from threefs.meta.store import Outcome
from threefs.meta.view import View


async def rmdir(ctx: Context, at: At) -> Removed:
    async def body(view: View) -> Done:
        place = await locate(view, at, ctx.user)
        refuse_unnamed(place, at)
        if place.existing().type is not FileType.DIRECTORY:
            check_removal(place.parent, await view.record(place.existing().inode), ctx.user, place.name)
            raise FileError(errno.ENOTDIR, place.subject)
        return await remove_directory(ctx, view, place, empty_only=True)

    async with ctx.env.locks.hold(directory_of(at)):
        outcome, _ = await ctx.mutate(body)
    return Removed(outcome.inode, outcome.nlink)


def refuse_unnamed(place: Place, at: At) -> None:
    """The errors that rmdir(2) gives for "/", "." and ".."."""
    if place.name:
        return
    if place.parent.id == ROOT_INODE:
        raise FileError(errno.EBUSY, "/")
    last = bytes(at.path if isinstance(at.path, bytes) else at.path.encode()).rstrip(b"/").rsplit(b"/", 1)[-1]
    raise FileError(errno.ENOTEMPTY if last == b".." else errno.EINVAL, last.decode("utf-8", "replace"))


async def remove_directory(ctx: Context, view: View, place: Place, *, empty_only: bool) -> Done:
    """Cuts off the directory at `place`. What is in it, if that is allowed, goes with it."""
    victim = await view.record(place.existing().inode, guard=True)
    parent = await view.record(place.parent.id, guard=True)
    check_removal(parent, victim, ctx.user, place.name)
    if empty_only and not await view.is_empty(victim.id):
        raise FileError(errno.ENOTEMPTY, place.subject)
    view.guard_entry(parent.id, place.name)
    view.clear_entry(parent.id, place.name)
    view.put_inode(replace(parent, nlink=parent.nlink - 1))
    view.touch(parent.id, ctx.now_us)
    left = drop_directory(ctx, view, victim, delay=empty_only)
    return Outcome(left.id), left
