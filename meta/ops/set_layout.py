"""set layout: the default of what will be created in a directory. What is there already keeps its own.

Relies on: the directory's record.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode, Layout
from threefs.meta.access import check_owner
from threefs.meta.changes import inherited_layout
from threefs.meta.context import Context, Done
from threefs.meta.layout import merge_layout
from threefs.meta.ops.result import present
from threefs.meta.resolve import find
from threefs.meta.store import Outcome
from threefs.meta.view import View


async def set_layout(ctx: Context, at: At, layout: Layout) -> Inode:
    """The directory; only its owner (or root) may. Fields that are 0 stay as they were."""

    async def body(view: View) -> Done:
        found = await view.inode((await find(view, at, ctx.user, follow=True)).id, guard=True)
        if found.type is not FileType.DIRECTORY:
            raise FileError(errno.ENOTDIR, f"inode {found.id:#x}")
        check_owner(found, ctx.user)
        merged = merge_layout(layout, inherited_layout(found))
        ctx.env.layouts.file_layout(merged, seed=found.id)  # raises if there is no such chain table
        changed = replace(found, layout=merged, ctime_us=ctx.now_us)
        view.put_inode(changed)
        return Outcome(changed.id, changed.nlink), changed

    return present(await ctx.mutate(body))
