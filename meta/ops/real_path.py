"""real path: the absolute path of a place, without symlinks, "." and "..". Reads only, guards nothing."""

from __future__ import annotations

import errno
from typing import Final

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode
from threefs.common.ids import GC_ROOT_INODE, ROOT_INODE
from threefs.meta.context import Context
from threefs.meta.resolve import locate
from threefs.meta.view import View

_PAGE: Final = 1024


async def real_path(ctx: Context, at: At) -> bytes:
    """ENOENT if the place is in a tree that was removed, EINVAL for an inode that is no directory without its name."""

    async def body(view: View) -> bytes:
        place = await locate(view, at, ctx.user, follow=True)
        if not place.name:
            return b"/" + b"/".join(await _names_above(view, place.parent))
        place.existing()
        return b"/" + b"/".join([*await _names_above(view, place.parent), place.name])

    return await ctx.read(body)


async def _names_above(view: View, directory: Inode) -> list[bytes]:
    """Names from the root down to a directory. A directory knows its parent, not its name: that is searched there."""
    if directory.type is not FileType.DIRECTORY:
        raise FileError(errno.EINVAL, f"inode {directory.id:#x} is no directory; give its parent and name")
    names: list[bytes] = []
    while directory.id != ROOT_INODE:
        if directory.parent in (GC_ROOT_INODE, directory.id):
            raise FileError(errno.ENOENT, f"directory {directory.id:#x} was removed")
        names.append(await _name_in(view, directory))
        directory = await view.record(directory.parent)
    names.reverse()
    return names


async def _name_in(view: View, directory: Inode) -> bytes:
    after = b""
    while page := await view.entries(directory.parent, after=after, limit=_PAGE):
        for name, entry in page:
            if entry.inode == directory.id:
                return name
        after = page[-1][0]
    raise FileError(errno.ENOENT, f"directory {directory.id:#x} has no name in {directory.parent:#x}")
