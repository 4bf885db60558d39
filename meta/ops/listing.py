"""list: a directory page by page in name order, with attributes if wanted. Reads only, guards nothing."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode
from threefs.meta.access import EXECUTE, READ, check, may
from threefs.meta.context import Context
from threefs.meta.resolve import find
from threefs.meta.store import Entry
from threefs.meta.view import View


@dataclass(frozen=True, slots=True)
class Page:
    """Entries with their inodes (None without attributes). `more`: there are names after the last one."""

    entries: list[tuple[bytes, Entry, Inode | None]]
    more: bool


async def list_directory(ctx: Context, at: At, *, after: bytes, limit: int, attributes: bool) -> Page:
    """Names after `after`. One page is one snapshot; attributes need search permission as stat does."""
    tuning = ctx.env.config.tuning
    limit = min(limit or tuning.list_limit, tuning.list_limit_max)

    async def body(view: View) -> Page:
        directory = await find(view, at, ctx.user, follow=True)
        if directory.type is not FileType.DIRECTORY:
            raise FileError(errno.ENOTDIR, f"inode {directory.id:#x}")
        check(directory, ctx.user, READ)
        entries = await view.entries(directory.id, after=after, limit=limit + 1)
        more = len(entries) > limit
        wanted = attributes and may(directory, ctx.user, EXECUTE)
        entries = entries[:limit]
        if not wanted:
            return Page([(name, entry, None) for name, entry in entries], more)
        inodes = await ctx.env.each(view.find_inode(entry.inode) for _, entry in entries)
        return Page([(name, entry, inode) for (name, entry), inode in zip(entries, inodes, strict=True)], more)

    return await ctx.read(body)
