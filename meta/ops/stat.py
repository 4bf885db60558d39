"""stat: attributes of one inode or of many. Reads only, guards nothing."""

from __future__ import annotations

from collections.abc import Sequence

from threefs.common.errors import BadRequest, FileError
from threefs.common.files import At, Inode
from threefs.meta.context import Context
from threefs.meta.resolve import find
from threefs.meta.view import View

BATCH_ITEMS_MAX = 4096


async def stat(ctx: Context, at: At, *, follow: bool) -> Inode:
    """The inode that a place leads to."""
    return await ctx.read(lambda view: find(view, at, ctx.user, follow=follow))


async def batch_stat(ctx: Context, items: Sequence[At], *, follow: bool) -> list[Inode | FileError]:
    """One result for each place, all from one snapshot."""
    if len(items) > BATCH_ITEMS_MAX:
        raise BadRequest(f"{len(items)} places in one request, {BATCH_ITEMS_MAX} at most")

    async def one(view: View, at: At) -> Inode | FileError:
        try:
            return await find(view, at, ctx.user, follow=follow)
        except FileError as exc:
            return exc

    return await ctx.read(lambda view: ctx.env.each(one(view, at) for at in items))
