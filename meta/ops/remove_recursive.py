"""Recursive removal: a whole tree loses its name in one transaction; the collector walks and frees it afterwards.

Before that, for anybody but root, it is checked that the user could remove every part alone: whoever cannot, removes
nothing. What is created in the tree between the check and the removal goes with it.
Relies on what `rmdir` does, except that the directory is empty.
"""

from __future__ import annotations

import errno
import stat as bits
from typing import Final

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode
from threefs.common.ids import InodeId
from threefs.meta.access import EXECUTE, READ, WRITE, check
from threefs.meta.context import Context, Done
from threefs.meta.locks import directory_of
from threefs.meta.ops.result import Removed
from threefs.meta.ops.rmdir import refuse_unnamed, remove_directory
from threefs.meta.ops.unlink import remove_file
from threefs.meta.resolve import locate
from threefs.meta.view import View

PAGE_ENTRIES: Final = 1024
PAGES_MAX: Final = 1024


async def remove_recursive(ctx: Context, at: At) -> Removed:
    """Removes whatever has this name."""
    checked: set[InodeId] = set()
    if ctx.user.uid != 0:
        await _check_tree(ctx, at, checked)

    async def body(view: View) -> Done:
        place = await locate(view, at, ctx.user)
        refuse_unnamed(place, at)
        entry = place.existing()
        if entry.type is not FileType.DIRECTORY:
            return await remove_file(ctx, view, place)
        if ctx.user.uid != 0 and entry.inode not in checked:
            raise FileError(errno.EBUSY, f"{place.subject} was replaced while it was being removed")
        return await remove_directory(ctx, view, place, empty_only=False)

    async with ctx.env.locks.hold(directory_of(at)):
        outcome, _ = await ctx.mutate(body)
    return Removed(outcome.inode, outcome.nlink)


async def _check_tree(ctx: Context, at: At, checked: set[InodeId]) -> None:
    """Puts the directory at `at` into `checked` once the user was found to have permission for all that is in it."""

    async def top(view: View) -> InodeId | None:
        place = await locate(view, at, ctx.user)
        entry = place.entry if place.name else None
        return entry.inode if entry is not None and entry.type is FileType.DIRECTORY else None

    first = await ctx.read(top)
    if first is None:
        return
    pending = [first]
    pages = 0
    while pending:
        directory = pending.pop()
        after: bytes | None = b""
        while after is not None:
            pages += 1
            if pages > PAGES_MAX:
                raise FileError(
                    errno.E2BIG, f"more than {PAGES_MAX} pages of {PAGE_ENTRIES} names: remove its parts first"
                )
            after = await _check_page(ctx, directory, after, pending)
    checked.add(first)


async def _check_page(ctx: Context, id: InodeId, after: bytes, pending: list[InodeId]) -> bytes | None:
    """Checks one page of a directory; returns where the next one begins, None if this was the last."""

    async def body(view: View) -> tuple[list[InodeId], bytes | None]:
        directory = await view.find_record(id)
        if directory is None:
            return [], None
        entries = await view.entries(id, after=after, limit=PAGE_ENTRIES)
        if entries:
            check(directory, ctx.user, READ | WRITE | EXECUTE)
        if directory.mode & bits.S_ISVTX and directory.uid != ctx.user.uid:
            for name, entry in entries:
                _check_sticky(ctx, await view.find_record(entry.inode), name)
        below = [entry.inode for _, entry in entries if entry.type is FileType.DIRECTORY]
        return below, entries[-1][0] if len(entries) == PAGE_ENTRIES else None

    below, following = await ctx.read(body)
    pending.extend(below)
    return following


def _check_sticky(ctx: Context, victim: Inode | None, name: bytes) -> None:
    if victim is not None and victim.uid != ctx.user.uid:
        raise FileError(errno.EPERM, name.decode("utf-8", "replace"))
