"""Extended attributes. What the kernel asks in namespaces that are not kept is answered in the bridge."""

from __future__ import annotations

import errno

from threefs.client.meta.types import XattrFlags
from threefs.common.errors import FileError
from threefs.common.ids import InodeId
from threefs.fuse.bridge import Request
from threefs.fuse.context import Context


async def setxattr(context: Context, request: Request) -> None:
    raw = request.raw
    value, flags = bytes(request.payload()), XattrFlags(raw.flags)
    await context.meta.setxattr(InodeId(raw.ino), request.name, value, flags=flags, user=context.user(request))
    request.reply_done()


async def getxattr(context: Context, request: Request) -> None:
    number = InodeId(request.raw.ino)
    _reply_sized(request, await context.meta.getxattr(number, request.name, user=context.user(request)))


async def listxattr(context: Context, request: Request) -> None:
    names = await context.meta.listxattr(InodeId(request.raw.ino), user=context.user(request))
    _reply_sized(request, b"".join(name + b"\0" for name in names))


async def removexattr(context: Context, request: Request) -> None:
    await context.meta.removexattr(InodeId(request.raw.ino), request.name, user=context.user(request))
    request.reply_done()


def _reply_sized(request: Request, value: bytes) -> None:
    """Size 0 asks how much there is."""
    room = request.raw.size
    if not room:
        request.reply_size(len(value))
    elif len(value) > room:
        raise FileError(errno.ERANGE)
    else:
        request.reply_data(value)
