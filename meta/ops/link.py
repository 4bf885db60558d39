"""link: a second name for something that is no directory.

Relies on: the inode's record, the directory's record, the name.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode
from threefs.meta.changes import NLINK_MAX, check_free
from threefs.meta.context import Context, Done
from threefs.meta.ops.result import present
from threefs.meta.resolve import find, locate
from threefs.meta.store import Entry, Outcome
from threefs.meta.view import View


async def link(ctx: Context, source: At, target: At, *, follow: bool = False) -> Inode:
    """The inode with its new link count."""

    async def body(view: View) -> Done:
        found = await view.inode((await find(view, source, ctx.user, follow=follow)).id, guard=True)
        place = await locate(view, target, ctx.user)
        parent = check_free(ctx, place)
        if found.type is FileType.DIRECTORY:
            raise FileError(errno.EPERM, place.subject)
        if found.nlink == 0 or place.slash:
            raise FileError(errno.ENOENT, place.subject)
        if found.nlink >= NLINK_MAX:
            raise FileError(errno.EMLINK, place.subject)
        linked = replace(found, nlink=found.nlink + 1, ctime_us=ctx.now_us)
        view.guard_inode(parent.id)
        view.guard_entry(parent.id, place.name)
        view.put_inode(linked)
        view.put_entry(parent.id, place.name, Entry(linked.id, linked.type))
        view.touch(parent.id, ctx.now_us)
        return Outcome(linked.id, linked.nlink, created=True), linked

    return present(await ctx.mutate(body))
