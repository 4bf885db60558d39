"""create: open(2) with O_CREAT. A new file, or an existing one opened.

Relies on, for a new file: the directory's record, the name. The hot path: three reads, five writes.
"""

from __future__ import annotations

import errno
import os

from threefs.common.errors import FileError
from threefs.common.files import At, FileType, Layout
from threefs.common.ids import SessionId
from threefs.meta.changes import add_new, check_free, new_inode
from threefs.meta.context import Context, Done
from threefs.meta.ops.open import admit, needs_session, truncate_opened
from threefs.meta.ops.result import Opened, present
from threefs.meta.resolve import locate
from threefs.meta.store import Outcome, Session
from threefs.meta.view import View


async def create(
    ctx: Context,
    at: At,
    *,
    mode: int,
    flags: int,
    session: SessionId,
    pin: bool = False,
    layout: Layout | None = None,
) -> Opened:
    """The file, open as `flags` say. A new one may be written whatever its mode says, as open(2) has it."""
    id = await ctx.env.ids.next()
    exclusive = bool(flags & os.O_EXCL)
    wants_session = needs_session(flags, pin)

    async def body(view: View) -> Done:
        place = await locate(view, at, ctx.user, follow=not exclusive and not flags & os.O_NOFOLLOW)
        if place.entry is not None and not exclusive:
            found = await view.inode(place.existing().inode)
            await admit(ctx, view, found, flags | os.O_CREAT, session if wants_session else None)
            return Outcome(found.id, session=wants_session), found
        parent = check_free(ctx, place, taken=errno.EEXIST if exclusive else errno.EISDIR)
        if place.slash:
            raise FileError(errno.EISDIR, place.subject)
        made = new_inode(ctx, parent, id, FileType.FILE, mode, wanted=layout)
        add_new(ctx, view, place, made)
        if wants_session:
            view.put_session(id, session, Session(ctx.client, ctx.now_us))
        return Outcome(id, 1, created=True, session=wants_session), made

    done = await ctx.mutate(body)
    opened = Opened(present(done), done[0].created, done[0].session)
    return opened if opened.created else await truncate_opened(ctx, opened, flags, session)
