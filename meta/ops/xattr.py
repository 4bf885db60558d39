"""Extended attributes: user.*, trusted.* (root only) and security.*.

system.* (POSIX ACLs among it) is refused with EOPNOTSUPP. user.* is for files and directories only, see xattr(7).
Relies on: the inode's record; for CREATE and REPLACE the attribute itself.
"""

from __future__ import annotations

import errno
import stat as bits
from dataclasses import replace
from typing import Final

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode, XattrFlags
from threefs.common.files_proto import path_text
from threefs.meta import store
from threefs.meta.access import READ, WRITE, check
from threefs.meta.context import Context, Done
from threefs.meta.resolve import find
from threefs.meta.store import Outcome
from threefs.meta.view import View

NAME_BYTES_MAX: Final = 255
VALUE_BYTES_MAX: Final = 64 << 10
LIST_BYTES_MAX: Final = 64 << 10
_USER, _TRUSTED, _SECURITY = b"user.", b"trusted.", b"security."


async def get_xattr(ctx: Context, at: At, name: bytes) -> bytes:
    _check_name(name)

    async def body(view: View) -> bytes:
        inode = await find(view, at, ctx.user)
        if name.startswith(_USER):
            check(inode, ctx.user, READ)
        hidden = name.startswith(_TRUSTED) and ctx.user.uid != 0
        value = None if hidden else await view.txn.get(store.xattr_key(inode.id, name), snapshot=True)
        if value is None:
            raise FileError(errno.ENODATA, path_text(name))
        return value

    return await ctx.read(body)


async def list_xattrs(ctx: Context, at: At) -> list[bytes]:
    async def body(view: View) -> list[bytes]:
        inode = await find(view, at, ctx.user)
        return [name for name in await _names(view, inode) if ctx.user.uid == 0 or not name.startswith(_TRUSTED)]

    return await ctx.read(body)


async def set_xattr(ctx: Context, at: At, name: bytes, value: bytes, flags: XattrFlags) -> None:
    _check_name(name)
    if len(value) > VALUE_BYTES_MAX:
        raise FileError(errno.E2BIG, f"{path_text(name)}: {len(value)} bytes; {VALUE_BYTES_MAX} at most")
    if flags & ~(XattrFlags.CREATE | XattrFlags.REPLACE) or flags == XattrFlags.CREATE | XattrFlags.REPLACE:
        raise FileError(errno.EINVAL, f"flags {int(flags):#x}")

    async def body(view: View) -> Done:
        inode = await _changing(ctx, view, at, name)
        key = store.xattr_key(inode.id, name)
        old = await view.txn.get(key)
        exists = old is not None
        if exists and flags & XattrFlags.CREATE:
            raise FileError(errno.EEXIST, path_text(name))
        if not exists and flags & XattrFlags.REPLACE:
            raise FileError(errno.ENODATA, path_text(name))
        if old == value:  # no change, so no new ctime: as ext4 does
            return Outcome(inode.id, inode.nlink), inode
        names = await _names(view, inode)
        if not exists and sum(len(other) + 1 for other in (*names, name)) > LIST_BYTES_MAX:
            raise FileError(errno.ENOSPC, path_text(name))
        view.txn.set(key, value)
        return _touched(ctx, view, inode)

    await ctx.mutate(body)


async def remove_xattr(ctx: Context, at: At, name: bytes) -> None:
    _check_name(name)

    async def body(view: View) -> Done:
        inode = await _changing(ctx, view, at, name)
        key = store.xattr_key(inode.id, name)
        if await view.txn.get(key) is None:
            raise FileError(errno.ENODATA, path_text(name))
        view.txn.clear(key)
        return _touched(ctx, view, inode)

    await ctx.mutate(body)


async def _names(view: View, inode: Inode) -> list[bytes]:
    pairs = await view.txn.get_range(*store.xattrs_range(inode.id), snapshot=True)
    return [store.name_of_key(key) for key, _ in pairs]


def _check_name(name: bytes) -> None:
    if not name or len(name) > NAME_BYTES_MAX:
        raise FileError(errno.ERANGE, f"an attribute name of {len(name)} bytes; 1 to {NAME_BYTES_MAX}")
    for prefix in (_USER, _TRUSTED, _SECURITY):
        if name.startswith(prefix):
            if name == prefix:
                raise FileError(errno.EINVAL, path_text(name))
            return
    raise FileError(errno.EOPNOTSUPP, path_text(name))


async def _changing(ctx: Context, view: View, at: At, name: bytes) -> Inode:
    """The inode, if the user may change this attribute of it."""
    inode = await view.inode((await find(view, at, ctx.user)).id, guard=True)
    if not name.startswith(_USER):
        if ctx.user.uid != 0:
            raise FileError(errno.EPERM, path_text(name))
        return inode
    if inode.type not in (FileType.FILE, FileType.DIRECTORY):
        raise FileError(errno.EPERM, path_text(name))
    sticky = inode.type is FileType.DIRECTORY and inode.mode & bits.S_ISVTX
    if sticky and ctx.user.uid not in (0, inode.uid):
        raise FileError(errno.EPERM, path_text(name))
    check(inode, ctx.user, WRITE)
    return inode


def _touched(ctx: Context, view: View, inode: Inode) -> Done:
    changed = replace(inode, ctime_us=ctx.now_us)
    view.put_inode(changed)
    return Outcome(changed.id, changed.nlink), changed
