"""setattr: chmod, chown and utimes. The length is `truncate`'s.

Relies on: the inode's record. Times: ctime is when anything of the inode or its content changed; atime is set at
creation and by utimes only (as on a file system mounted with noatime).
"""

from __future__ import annotations

import errno
import stat as bits
from dataclasses import dataclass, replace

from threefs.common.errors import FileError
from threefs.common.files import At, Credentials, FileType, Inode
from threefs.meta.access import WRITE, check, check_owner, in_group, without_privileges
from threefs.meta.context import Context, Done
from threefs.meta.ops.result import present
from threefs.meta.resolve import find
from threefs.meta.store import Outcome
from threefs.meta.view import View


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to change; None and False leave it as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_us: int | None = None
    mtime_us: int | None = None
    atime_now: bool = False
    mtime_now: bool = False

    @property
    def times(self) -> bool:
        return self.atime_us is not None or self.mtime_us is not None or self.atime_now or self.mtime_now


async def setattr(ctx: Context, at: At, wanted: Wanted, *, follow: bool) -> Inode:
    """The inode after the change. All or nothing: one thing that is not permitted refuses the rest."""

    async def body(view: View) -> Done:
        found = await view.inode((await find(view, at, ctx.user, follow=follow)).id, guard=True)
        changed = changed_inode(found, wanted, ctx.user, ctx.now_us)
        view.put_inode(changed)
        if changed.type is FileType.DIRECTORY and changed.mtime_us != found.mtime_us:
            view.put_times(changed.id, changed.mtime_us, changed.ctime_us)
        return Outcome(changed.id, changed.nlink), changed

    return present(await ctx.mutate(body))


def changed_inode(inode: Inode, wanted: Wanted, user: Credentials, now_us: int) -> Inode:
    """`inode` with the changes, by the rules of chmod(2), chown(2) and utimensat(2)."""
    uid, gid, mode = _owner(inode, wanted, user)
    if wanted.mode is not None:
        mode = _mode(inode, wanted.mode, user, gid)
    atime_us, mtime_us = inode.atime_us, inode.mtime_us
    if wanted.times:
        _check_times(inode, wanted, user)
        atime_us = now_us if wanted.atime_now else atime_us if wanted.atime_us is None else wanted.atime_us
        mtime_us = now_us if wanted.mtime_now else mtime_us if wanted.mtime_us is None else wanted.mtime_us
    return replace(inode, uid=uid, gid=gid, mode=mode, atime_us=atime_us, mtime_us=mtime_us, ctime_us=now_us)


def _owner(inode: Inode, wanted: Wanted, user: Credentials) -> tuple[int, int, int]:
    if wanted.uid is None and wanted.gid is None:
        return inode.uid, inode.gid, inode.mode
    uid = inode.uid if wanted.uid is None else wanted.uid
    gid = inode.gid if wanted.gid is None else wanted.gid
    if user.uid != 0:
        gives_away = uid != inode.uid or user.uid != inode.uid
        if gives_away or (gid != inode.gid and not in_group(user, gid)):
            raise FileError(errno.EPERM, f"chown of inode {inode.id:#x} to {uid}:{gid} by uid {user.uid}")
    mode = inode.mode if inode.type is FileType.DIRECTORY else without_privileges(inode.mode)
    return uid, gid, mode


def _mode(inode: Inode, mode: int, user: Credentials, gid: int) -> int:
    check_owner(inode, user)
    if inode.type is FileType.SYMLINK:
        raise FileError(errno.EOPNOTSUPP, f"chmod of symlink {inode.id:#x}")
    mode &= 0o7777
    if user.uid != 0 and not in_group(user, gid):
        mode &= ~bits.S_ISGID
    return mode


def _check_times(inode: Inode, wanted: Wanted, user: Credentials) -> None:
    """Who is not the owner may only set both times to now, and needs write permission for it."""
    if user.uid in (0, inode.uid):
        return
    only_now = wanted.atime_us is None and wanted.mtime_us is None
    if not only_now:
        raise FileError(errno.EPERM, f"utimes of inode {inode.id:#x} by uid {user.uid}")
    check(inode, user, WRITE)
