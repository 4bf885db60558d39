"""truncate: sets the length of a file.

Storage first: chunks beyond the new length are removed, the last one is cut; then one transaction sets length and
truncate version. A crash in between leaves the old length with zeros at its end, never old data beyond the new one.
A longer length needs no storage at all: what was never written reads as zeros.
Relies on: the inode's record, which must still have the truncate version for which storage was cut. Truncates of one
file wait for each other. A caller that has given up must not leave one running, because it would cut what is written
after the retry was answered: the service ends it when the caller's time is over.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Final

from threefs.common.errors import Busy, FileError
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

_ROUNDS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class _Seen:
    """The file as it was when it was decided what to cut."""

    inode: Inode
    done: bool  # this request was carried out before
    written: bool  # somebody may have written beyond the recorded length


class _Changed(Exception):
    """Somebody truncated the file or began to write it since it was looked at."""


async def truncate(
    ctx: Context, at: At, length: int, *, opened: bool = False, own_session: SessionId | None = None
) -> Inode:
    """The inode with its new length and truncate version.

    `opened`: permission was checked by open. `own_session` has not written yet: it does not count as a writer.
    """
    ctx.check_request()  # a late duplicate must be refused before anything is cut
    id = (await ctx.read(lambda view: find(view, at, ctx.user, follow=True))).id
    async with ctx.env.locks.hold(("length", id)):
        for _ in range(_ROUNDS_MAX):
            seen = await ctx.read(lambda view: _look(ctx, view, id, length, opened, own_session))
            if not seen.done:
                await cut(ctx.env, seen.inode, length, written=seen.written)
            try:
                return await _record(ctx, seen, length, own_session)
            except _Changed:
                continue
    raise Busy(f"inode {id:#x} was changed {_ROUNDS_MAX} times while it was being truncated")


async def _look(
    ctx: Context, view: View, id: InodeId, length: int, opened: bool, own_session: SessionId | None
) -> _Seen:
    inode = await view.inode(id)
    _check(ctx, inode, length, opened)
    known = await view.txn.get(store.request_key(ctx.request), snapshot=True)
    return _Seen(inode, known is not None, await _is_written(view, id, own_session))


async def _record(ctx: Context, seen: _Seen, length: int, own_session: SessionId | None) -> Inode:
    async def body(view: View) -> Done:
        now = await view.inode(seen.inode.id, guard=True)
        began = not seen.written and (now.length > seen.inode.length or await _is_written(view, now.id, own_session))
        if began or now.truncate_version != seen.inode.truncate_version:
            raise _Changed
        changed = replace(
            now,
            length=length,
            truncate_version=now.truncate_version + 1,
            mode=now.mode if ctx.user.uid == 0 else without_privileges(now.mode),
            mtime_us=ctx.now_us,
            ctime_us=ctx.now_us,
        )
        view.put_inode(changed)
        return Outcome(changed.id, changed.nlink), changed

    return present(await ctx.mutate(body))


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
