"""open: permission to read or write a file, and the write session that keeps its chunks until it is closed.

Relies on, with a session: the inode's record (nobody removes it meanwhile), and for a file without names one of its
sessions, so that nothing that the collector has begun to free is opened again. Opening for reading only reads.
"""

from __future__ import annotations

import errno
import os

from threefs.common.errors import BadRequest, FileError
from threefs.common.files import At, FileType, Inode
from threefs.common.ids import RequestId, SessionId
from threefs.meta.access import READ, WRITE, check
from threefs.meta.context import Context, Done
from threefs.meta.ops.result import Opened, present
from threefs.meta.ops.truncate import truncate
from threefs.meta.resolve import find
from threefs.meta.store import Outcome, Session
from threefs.meta.view import View

_WANTED = {os.O_RDONLY: READ, os.O_WRONLY: WRITE, os.O_RDWR: READ | WRITE}


async def open_file(ctx: Context, at: At, *, flags: int, session: SessionId, pin: bool = False) -> Opened:
    """The inode, and whether a session was recorded (opened for writing, or pinned)."""
    wants_session = needs_session(flags, pin)

    async def body(view: View) -> Inode:
        found = await find(view, at, ctx.user, follow=not flags & os.O_NOFOLLOW)
        await admit(ctx, view, found, flags, session if wants_session else None)
        return found

    async def record(view: View) -> Done:
        found = await body(view)
        return Outcome(found.id, session=True), found

    if wants_session:
        opened = Opened(present(await ctx.mutate(record)), False, True)
    else:
        opened = Opened(await ctx.read(body), False, False)
    return await truncate_opened(ctx, opened, flags, session)


def needs_session(flags: int, pin: bool) -> bool:
    return pin or flags & os.O_ACCMODE != os.O_RDONLY


async def admit(ctx: Context, view: View, inode: Inode, flags: int, session: SessionId | None) -> None:
    """Checks that the user may open `inode` as `flags` say; records `session` if there is one."""
    subject = f"inode {inode.id:#x}"
    if flags & os.O_ACCMODE not in _WANTED:
        raise BadRequest(f"open flags {flags:#o} name no access mode")
    want = _WANTED[flags & os.O_ACCMODE] | (WRITE if flags & os.O_TRUNC else 0)
    if inode.type is FileType.SYMLINK:
        raise FileError(errno.ELOOP, subject)
    if inode.type is FileType.DIRECTORY:
        if want & WRITE or flags & os.O_CREAT:
            raise FileError(errno.EISDIR, subject)
    elif flags & os.O_DIRECTORY:
        raise FileError(errno.ENOTDIR, subject)
    elif inode.type is not FileType.FILE:
        raise FileError(errno.ENXIO, subject)
    check(inode, ctx.user, want)
    if session is None or inode.type is not FileType.FILE:
        return
    if len(session) != 16:
        raise BadRequest(f"a session id has 16 bytes, this one {len(session)}")
    view.guard_inode(inode.id)
    if inode.nlink == 0 and not await view.has_sessions(inode.id):
        raise FileError(errno.ENOENT, subject)
    view.put_session(inode.id, session, Session(ctx.client, ctx.now_us))


async def truncate_opened(ctx: Context, opened: Opened, flags: int, session: SessionId) -> Opened:
    """The O_TRUNC of an open that found a file."""
    if not flags & os.O_TRUNC or opened.inode.type is not FileType.FILE:
        return opened
    request = RequestId(ctx.request[:15] + bytes([ctx.request[15] ^ 1]))  # a second step of the same request
    step = Context(ctx.env, ctx.user, ctx.client, request, ctx.now_us)
    inode = await truncate(step, At(opened.inode.id), 0, opened=True, own_session=session)
    return Opened(inode, opened.created, opened.session)
