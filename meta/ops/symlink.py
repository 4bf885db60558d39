"""symlink. Relies on: the directory's record, the name."""

from __future__ import annotations

import errno

from threefs.common.errors import FileError
from threefs.common.files import SYMLINK_BYTES_MAX, At, FileType, Inode
from threefs.common.files_proto import path_text
from threefs.meta.changes import add_new, check_free, new_inode
from threefs.meta.context import Context, Done
from threefs.meta.ops.result import present
from threefs.meta.resolve import locate
from threefs.meta.store import Outcome
from threefs.meta.view import View


async def symlink(ctx: Context, at: At, target: bytes) -> Inode:
    """A symlink to `target`, which need not exist."""
    if not target:
        raise FileError(errno.ENOENT, "a symlink to nothing")
    if len(target) > SYMLINK_BYTES_MAX:
        raise FileError(errno.ENAMETOOLONG, f"a target of {len(target)} bytes; {SYMLINK_BYTES_MAX} at most")
    if b"\x00" in target:
        raise FileError(errno.EINVAL, "a target that contains a zero byte")
    id = await ctx.env.ids.next()

    async def body(view: View) -> Done:
        place = await locate(view, at, ctx.user)
        parent = check_free(ctx, place)
        if place.slash:
            raise FileError(errno.ENOENT, place.subject)
        made = new_inode(ctx, parent, id, FileType.SYMLINK, 0o777, symlink=path_text(target))
        add_new(ctx, view, place, made)
        return Outcome(id, 1, created=True), made

    return present(await ctx.mutate(body))
