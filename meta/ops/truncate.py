"""truncate: sets the length of a file.

Storage first: chunks beyond the new length are removed, the last one is cut; then one transaction sets length and
truncate version. A crash in between leaves the old length with zeros at its end, never old data beyond the new one.
A longer length needs no storage at all: what was never written reads as zeros.
Relies on: the inode's record.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Inode
from threefs.common.ids import CHUNK_INDEX_MAX, InodeId, SessionId
from threefs.meta import store
from threefs.meta.access import WRITE, check, without_privileges
from threefs.meta.context import Context, Done
from threefs.meta.lengths import cut
from threefs.meta.ops.result import present
from threefs.meta.resolve import find
from threefs.meta.store import Outcome
from threefs.meta.view import View


async def truncate(
    ctx: Context, at: At, length: int, *, opened: bool = False, own_session: SessionId | None = None
) -> Inode:
    """The inode with its new length and truncate version.

    `opened`: permission was checked by open. `own_session` has not written yet: it does not count as a writer.
    """
    inode, done_before, written = await ctx.read(lambda view: _look(ctx, view, at, length, opened, own_session))
    id = inode.id

    async def body(view: View) -> Done:
        now = await view.inode(id, guard=True)
        if not written and (now.length > inode.length or await _is_written(view, id, own_session)):
            raise _Grown
        changed = replace(
            now,
            length=length,
            truncate_version=now.truncate_version + 1,
            mode=now.mode if ctx.user.uid == 0 else without_privileges(now.mode),
            mtime_us=ctx.now_us,
            ctime_us=ctx.now_us,
        )
        view.put_inode(changed)
        return Outcome(id, changed.nlink), changed

    async with ctx.env.locks.hold(("length", id)):
        while True:
            if not done_before:
                await cut(ctx.env, inode, length, written=written)
            try:
                return present(await ctx.mutate(body))
            except _Grown:
                written = True  # cut wherever the file may reach


class _Grown(Exception):
    """Somebody began to write after it was decided which chunks there can be."""


async def _look(
    ctx: Context, view: View, at: At, length: int, opened: bool, own_session: SessionId | None
) -> tuple[Inode, bool, bool]:
    """The file, whether this request was carried out before, and whether it may reach beyond its recorded length."""
    inode = await find(view, at, ctx.user, follow=True)
    _check(ctx, inode, length, opened)
    known = await view.txn.get(store.request_key(ctx.request), snapshot=True)
    return inode, known is not None, await _is_written(view, inode.id, own_session)


async def _is_written(view: View, id: InodeId, own_session: SessionId | None) -> bool:
    return any(session != own_session for session, _ in await view.sessions(id))


def _check(ctx: Context, inode: Inode, length: int, opened: bool) -> None:
    subject = f"inode {inode.id:#x}"
    if inode.type is FileType.DIRECTORY:
        raise FileError(errno.EISDIR, subject)
    if inode.type is not FileType.FILE or inode.layout is None:
        raise FileError(errno.EINVAL, subject)
    if not opened:
        check(inode, ctx.user, WRITE)
    most = (CHUNK_INDEX_MAX + 1) * inode.layout.chunk_bytes
    if length > most:
        raise FileError(errno.EFBIG, f"{subject}: {length} bytes; {most} at most")
