"""Reading directories: opendir, readdir, readdirplus, releasedir.

Offsets count entries from the beginning of a stream (see `streams`), with 0 for "." and 1 for "..".
"""

from __future__ import annotations

from threefs.common.files import FileType, Inode
from threefs.common.ids import InodeId
from threefs.fuse.bridge import UNKNOWN_INODE, EntryPacker, Request
from threefs.fuse.context import Context
from threefs.fuse.streams import DirectoryStream

DOTS = 2
_DIRECTORY_MODE = 0o040000
_MODES = {kind: Inode(InodeId(0), kind, 0, 0, 0, 0, 0, 0, 0, 0).st_mode for kind in FileType}


async def opendir(context: Context, request: Request) -> None:
    handle = context.next_handle()
    context.open_directories[handle] = DirectoryStream(context.meta, InodeId(request.raw.ino), context.user(request))
    if not request.reply_open(handle):
        del context.open_directories[handle]


async def releasedir(context: Context, request: Request) -> None:
    context.open_directories.pop(request.raw.fh, None)
    request.reply_done()


async def fsyncdir(context: Context, request: Request) -> None:
    """Names are durable when the operation that made them is answered."""
    request.reply_done()


async def readdir(context: Context, request: Request) -> None:
    await _read(context, request, plus=False)


async def readdirplus(context: Context, request: Request) -> None:
    await _read(context, request, plus=True)


async def _read(context: Context, request: Request, *, plus: bool) -> None:
    stream = context.open_directories[request.raw.fh]
    packer = EntryPacker(request, plus=plus)
    offset: int = request.raw.offset
    if offset == 0:
        stream.rewind()  # rewinddir(3): what was created meanwhile is to be seen
    if offset < 1 and packer.add(b".", stream.inode, _DIRECTORY_MODE, None, 1):
        offset = 1
    if offset < DOTS and packer.add(b"..", UNKNOWN_INODE, _DIRECTORY_MODE, None, DOTS):
        offset = DOTS
    while True:
        listed = await stream.entry(offset - DOTS, attributes=plus)
        if listed is None:
            break
        inode = context.seen(listed.inode) if plus and listed.inode is not None else None
        entry = listed.entry
        if not packer.add(entry.name, entry.inode, _MODES[entry.type], inode, offset + 1):
            break
        offset += 1
    packer.reply()
