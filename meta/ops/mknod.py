"""mknod: fifos, sockets and devices as records, or an empty regular file.

Relies on: the directory's record, the name.
"""

from __future__ import annotations

import errno

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode
from threefs.meta.changes import add_new, check_free, new_inode
from threefs.meta.context import Context, Done
from threefs.meta.ops.result import present
from threefs.meta.resolve import locate
from threefs.meta.store import Outcome
from threefs.meta.view import View

_DEVICES = (FileType.CHAR_DEVICE, FileType.BLOCK_DEVICE)


async def mknod(ctx: Context, at: At, *, type: FileType, mode: int, rdev: int) -> Inode:
    """The new inode; devices only for root."""
    if type in (FileType.DIRECTORY, FileType.SYMLINK):
        raise FileError(errno.EINVAL, f"mknod of type {type.name}")
    if type in _DEVICES and ctx.user.uid != 0:
        raise FileError(errno.EPERM, f"mknod of type {type.name}")
    id = await ctx.env.ids.next()

    async def body(view: View) -> Done:
        place = await locate(view, at, ctx.user)
        parent = check_free(ctx, place)
        if place.slash:
            raise FileError(errno.ENOENT, place.subject)
        made = new_inode(ctx, parent, id, type, mode, rdev=rdev if type in _DEVICES else 0)
        add_new(ctx, view, place, made)
        return Outcome(id, 1, created=True), made

    return present(await ctx.mutate(body))
