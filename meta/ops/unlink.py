"""unlink: takes a name from something that is no directory; its last one hands the inode to the collector.

Relies on: the name, the directory's record (its permissions), the inode's record.
"""

from __future__ import annotations

import errno

from threefs.common.errors import FileError
from threefs.common.files import At, FileType
from threefs.meta.access import check_removal
from threefs.meta.changes import drop_link
from threefs.meta.context import Context, Done
from threefs.meta.ops.result import Removed
from threefs.meta.resolve import Place, locate
from threefs.meta.store import Outcome
from threefs.meta.view import View


async def unlink(ctx: Context, at: At) -> Removed:
    """What was removed, and how many names it has left."""

    async def body(view: View) -> Done:
        place = (await locate(view, at, ctx.user)).named(errno.EISDIR)
        if place.existing().type is FileType.DIRECTORY:
            check_removal(place.parent, await view.record(place.existing().inode), ctx.user, place.name)
            raise FileError(errno.EISDIR, place.subject)
        return await remove_file(ctx, view, place)

    outcome, _ = await ctx.mutate(body)
    return Removed(outcome.inode, outcome.nlink)


async def remove_file(ctx: Context, view: View, place: Place) -> Done:
    """Removes the name at `place`, which is no directory's."""
    victim = await view.record(place.existing().inode, guard=True)
    check_removal(place.parent, victim, ctx.user, place.name)
    view.guard_inode(place.parent.id)
    view.guard_entry(place.parent.id, place.name)
    view.clear_entry(place.parent.id, place.name)
    view.touch(place.parent.id, ctx.now_us)
    left = drop_link(ctx, view, victim)
    return Outcome(left.id, left.nlink), left
