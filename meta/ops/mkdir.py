"""mkdir and mkdir -p.

Relies on: the parent's record, the new name. Also changes the parent's record, because a directory's link count is
2 + its subdirectories: requests for one parent wait for each other in memory rather than conflict.
"""

from __future__ import annotations

import errno

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode, Layout
from threefs.common.files_proto import path_bytes
from threefs.common.ids import ROOT_INODE, InodeId
from threefs.meta.changes import add_new, check_free, new_inode
from threefs.meta.context import Context, Done
from threefs.meta.locks import directory_of
from threefs.meta.ops.result import present
from threefs.meta.resolve import Place, locate
from threefs.meta.store import Outcome
from threefs.meta.view import View


async def mkdir(ctx: Context, at: At, *, mode: int, layout: Layout | None = None) -> Inode:
    """The new directory; EEXIST if the name is taken."""
    id = await ctx.env.ids.next()

    async def body(view: View) -> Done:
        made = _make(ctx, view, await locate(view, at, ctx.user), id, mode, layout)
        return Outcome(id, made.nlink, created=True), made

    async with ctx.env.locks.hold(directory_of(at)):
        return present(await ctx.mutate(body))


async def mkdirs(ctx: Context, at: At, *, mode: int, layout: Layout | None = None) -> Inode:
    """Makes what is missing on the way, each directory in a transaction of its own; returns the last one.

    Idempotent by nature, since what was made before is found again: no outcome is recorded.
    """
    path = path_bytes(at.path)
    base = ROOT_INODE if path.startswith(b"/") else InodeId(at.inode or ROOT_INODE)
    inode = await ctx.read(lambda view: view.inode(base))
    for name in filter(None, path.split(b"/")):
        inode = await _ensure(ctx, At(inode.id, name), mode, layout)
    return inode


async def _ensure(ctx: Context, at: At, mode: int, layout: Layout | None) -> Inode:
    id = await ctx.env.ids.next()

    async def body(view: View) -> Inode:
        place = await locate(view, at, ctx.user, follow=True)
        if not place.name:
            return await view.inode(place.parent.id)
        if place.entry is None:
            return _make(ctx, view, place, id, mode, layout)
        found = await view.inode(place.entry.inode)
        if found.type is not FileType.DIRECTORY:
            raise FileError(errno.ENOTDIR, place.subject)
        return found

    return await ctx.env.transact(body)


def _make(ctx: Context, view: View, place: Place, id: InodeId, mode: int, layout: Layout | None) -> Inode:
    parent = check_free(ctx, place)
    made = new_inode(ctx, parent, id, FileType.DIRECTORY, mode, wanted=layout)
    add_new(ctx, view, place, made)
    return made
