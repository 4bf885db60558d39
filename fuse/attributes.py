"""Operations on attributes: getattr, setattr (mode, owner, times, size), statfs."""

from __future__ import annotations

import errno
import stat
from typing import Any, Final

from threefs.common.errors import FileError
from threefs.common.files import Credentials, Inode
from threefs.common.ids import InodeId
from threefs.fuse.bridge import Request
from threefs.fuse.context import Context
from threefs.native._fuse import lib

_MODE: Final[int] = lib.BRIDGE_SET_MODE
_UID: Final[int] = lib.BRIDGE_SET_UID
_GID: Final[int] = lib.BRIDGE_SET_GID
_SIZE: Final[int] = lib.BRIDGE_SET_SIZE
_ATIME: Final[int] = lib.BRIDGE_SET_ATIME
_MTIME: Final[int] = lib.BRIDGE_SET_MTIME
_ATIME_NOW: Final[int] = lib.BRIDGE_SET_ATIME_NOW
_MTIME_NOW: Final[int] = lib.BRIDGE_SET_MTIME_NOW
_HANDLE: Final[int] = lib.BRIDGE_SET_HANDLE
_PERMISSIONS: Final = 0o7777
_PRIVILEGES: Final = stat.S_ISUID | stat.S_ISGID
_NOT_SIZE: Final = _MODE | _UID | _GID | _ATIME | _MTIME | _ATIME_NOW | _MTIME_NOW


async def getattr(context: Context, request: Request) -> None:
    number, directories = InodeId(request.raw.ino), context.directories
    known = directories.find(number)
    if known is not None:
        request.reply_attr(known[0], valid_s=known[1])
        return
    asked_s, changes = context.now(), directories.changes
    inode = await context.meta.stat(number, user=context.user(request), bare=True)
    directories.note(inode, asked_s=asked_s, changes=changes)
    request.reply_attr(context.seen(inode))


async def setattr(context: Context, request: Request) -> None:
    """The size first: it is the change that may fail for lack of space, and times set along with it must stay."""
    valid = request.raw.valid
    inode: Inode | None = None
    if valid & _SIZE:
        inode = await _truncate(context, request)
    if valid & _NOT_SIZE:
        inode = await _set_others(context, request)
    if inode is None:
        inode = await context.meta.stat(InodeId(request.raw.ino), user=context.user(request))
    request.reply_attr(context.seen(inode))


async def _truncate(context: Context, request: Request) -> Inode:
    raw, user = request.raw, context.user(request)
    number, size = InodeId(raw.ino), raw.attr.size
    opened = bool(raw.valid & _HANDLE)
    state = context.files.find(number)
    if state is None:
        return await context.meta.truncate(number, size, opened=opened, user=user)
    return await state.truncate(size, opened=opened, user=user)


async def _set_others(context: Context, request: Request) -> Inode:
    raw = request.raw
    number = InodeId(raw.ino)
    state = context.files.find(number)
    if state is not None and state.dirty and raw.valid & (_MTIME | _MTIME_NOW):
        await state.sync()  # else the time of a write before this would be reported after it
    try:
        return await _set(context, raw, number, context.user(request))
    except FileError as exc:
        if exc.errno != errno.EPERM or raw.valid & _NOT_SIZE != _MODE:
            raise
        return await _drop_privileges(context, number, raw.attr.mode & _PERMISSIONS, exc)


async def _drop_privileges(context: Context, number: InodeId, mode: int, refusal: FileError) -> Inode:
    """The kernel has checked a chmod before it sends it. One of somebody who is not the owner is the kernel's own:
    a write has to take set-user-id and set-group-id away."""
    inode = await context.meta.stat(number)
    if inode.mode & ~_PRIVILEGES != mode & ~_PRIVILEGES or mode & _PRIVILEGES & ~inode.mode:
        raise refusal
    return await context.meta.setattr(number, mode=mode)


async def _set(context: Context, raw: Any, number: InodeId, user: Credentials) -> Inode:
    valid, attr = raw.valid, raw.attr
    return await context.meta.setattr(
        number,
        mode=attr.mode & _PERMISSIONS if valid & _MODE else None,
        uid=attr.uid if valid & _UID else None,
        gid=attr.gid if valid & _GID else None,
        atime_us=attr.atime_us if valid & _ATIME and not valid & _ATIME_NOW else None,
        mtime_us=attr.mtime_us if valid & _MTIME and not valid & _MTIME_NOW else None,
        atime_now=bool(valid & _ATIME_NOW),
        mtime_now=bool(valid & _MTIME_NOW),
        user=user,
    )


async def statfs(context: Context, request: Request) -> None:
    space = await context.meta.statfs()
    block = context.block_bytes
    request.reply_space(
        block_bytes=block,
        blocks=space.capacity_bytes // block,
        free_blocks=space.free_bytes // block,
        files=1 << 48,  # inode numbers do not run out; tools want to see that some are free
    )
