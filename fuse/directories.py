"""Reading directories: opendir, readdir, readdirplus, releasedir.

Meta lists a directory in name order, page by page. A stream keeps the pages that a reader may come back to; offsets
count entries from the beginning, with 0 for "." and 1 for "..".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from threefs.client.meta.client import MetaClient
from threefs.client.meta.types import ListedEntry
from threefs.common.files import Credentials, FileType, Inode
from threefs.common.ids import InodeId
from threefs.fuse.bridge import UNKNOWN_INODE, EntryPacker, Request
from threefs.fuse.context import Context

DOTS = 2
PAGE_ENTRIES = 512
KEPT_ENTRIES = 4 * PAGE_ENTRIES  # what a reader may seek back to without listing from the start again
_DIRECTORY_MODE = 0o040000
_MODES = {kind: Inode(InodeId(0), kind, 0, 0, 0, 0, 0, 0, 0, 0).st_mode for kind in FileType}


@dataclass(slots=True)
class DirectoryStream:
    """One open directory. `entries[i]` is entry number `first + i` (dots not counted)."""

    meta: MetaClient
    inode: InodeId
    user: Credentials
    first: int = 0
    entries: list[ListedEntry] = field(default_factory=list)
    more: bool = True

    def rewind(self) -> None:
        self.first, self.entries, self.more = 0, [], True

    async def entry(self, number: int, *, attributes: bool) -> ListedEntry | None:
        """Entry `number`, None beyond the last."""
        if number < self.first:
            self.rewind()
        while number >= self.first + len(self.entries):
            if not self.more:
                return None
            await self._next_page(attributes)
        return self.entries[number - self.first]

    async def _next_page(self, attributes: bool) -> None:
        after = self.entries[-1].entry.name if self.entries else b""
        page = await self.meta.list(self.inode, after=after, limit=PAGE_ENTRIES, attributes=attributes, user=self.user)
        self.entries += page.entries
        self.more = page.more and bool(page.entries)
        excess = len(self.entries) - KEPT_ENTRIES
        if excess > 0:
            del self.entries[:excess]
            self.first += excess


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
