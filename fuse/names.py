"""Operations on names: lookup, making, linking, renaming, removing."""

from __future__ import annotations

import errno
import stat

from threefs.client.meta.types import RenameFlags
from threefs.common.errors import FileError
from threefs.common.files import FileType
from threefs.common.ids import InodeId
from threefs.fuse.bridge import Request
from threefs.fuse.context import Context

_TYPES = {
    stat.S_IFREG: FileType.FILE,
    stat.S_IFIFO: FileType.FIFO,
    stat.S_IFSOCK: FileType.SOCKET,
    stat.S_IFCHR: FileType.CHAR_DEVICE,
    stat.S_IFBLK: FileType.BLOCK_DEVICE,
}
_PERMISSIONS = 0o7777


async def lookup(context: Context, request: Request) -> None:
    try:
        user = context.user(request)
        inode = await context.meta.lookup(InodeId(request.raw.ino), request.name, user=user, bare=True)
    except FileError as exc:
        if exc.errno != errno.ENOENT:
            raise
        request.reply_negative()
        return
    request.reply_entry(context.seen(inode))


async def readlink(context: Context, request: Request) -> None:
    request.reply_text(await context.meta.readlink(InodeId(request.raw.ino), user=context.user(request)))


async def mknod(context: Context, request: Request) -> None:
    raw = request.raw
    inode = await context.meta.mknod(
        InodeId(raw.ino),
        request.name,
        _TYPES[stat.S_IFMT(raw.attr.mode) or stat.S_IFREG],
        mode=raw.attr.mode & _PERMISSIONS,
        rdev=raw.attr.rdev,
        user=context.user(request),
    )
    request.reply_entry(context.seen(inode))


async def mkdir(context: Context, request: Request) -> None:
    raw = request.raw
    mode = raw.attr.mode & _PERMISSIONS
    inode = await context.meta.mkdir(InodeId(raw.ino), request.name, mode=mode, user=context.user(request))
    request.reply_entry(inode)


async def symlink(context: Context, request: Request) -> None:
    parent = InodeId(request.raw.ino)
    inode = await context.meta.symlink(parent, request.name, request.name_out, user=context.user(request))
    request.reply_entry(inode)


async def link(context: Context, request: Request) -> None:
    raw = request.raw
    source, parent = InodeId(raw.ino), InodeId(raw.ino_out)
    request.reply_entry(
        context.seen(await context.meta.link(source, parent, request.name_out, user=context.user(request)))
    )


async def unlink(context: Context, request: Request) -> None:
    parent, name, user = InodeId(request.raw.ino), request.name, context.user(request)
    await context.protect(parent, name, user)
    await context.meta.unlink(parent, name, user=user)
    request.reply_done()


async def rmdir(context: Context, request: Request) -> None:
    await context.meta.rmdir(InodeId(request.raw.ino), request.name, user=context.user(request))
    request.reply_done()


async def rename(context: Context, request: Request) -> None:
    raw, user = request.raw, context.user(request)
    flags = RenameFlags(raw.flags)
    parent, name, new_parent, new_name = InodeId(raw.ino), request.name, InodeId(raw.ino_out), request.name_out
    if flags is RenameFlags.NONE:
        await context.protect(new_parent, new_name, user)
    await context.meta.rename(parent, name, new_parent, new_name, flags=flags, user=user)
    request.reply_done()
