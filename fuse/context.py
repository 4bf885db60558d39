"""What every operation of a mount works with: the clients, the open handles, the caller, what the kernel was told.

Made by `Mount`; the operations in `names`, `attributes`, `data`, `directories` and `xattrs` get it with each request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from threefs.client.file import FileTable, OpenFile
from threefs.client.meta.client import MetaClient
from threefs.common.errors import FileError
from threefs.common.files import Credentials, FileType, Inode
from threefs.common.ids import InodeId
from threefs.fuse.bridge import Bridge, Request
from threefs.fuse.credentials import CredentialsCache
from threefs.fuse.parents import KnownDirectories
from threefs.fuse.streams import DirectoryStream

TOLD_MAX = 65536
FMODE_EXEC = 0x20  # the kernel's: opened to be executed, so that the x bit was asked for and not the r bit


class ToldInodes:
    """Size and times of files that the kernel was last told, and so has filled its page cache under.

    At open they say whether another client changed the file since; an entry that was dropped counts as changed.
    """

    def __init__(self) -> None:
        self._told: OrderedDict[InodeId, tuple[int, int, int]] = OrderedDict()

    def note(self, inode: Inode) -> None:
        if inode.type is not FileType.FILE:
            return
        self._told[inode.id] = (inode.length, inode.mtime_us, inode.ctime_us)
        self._told.move_to_end(inode.id)
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)

    def is_current(self, inode: Inode) -> bool:
        return self._told.get(inode.id) == (inode.length, inode.mtime_us, inode.ctime_us)


@dataclass(slots=True)
class Context:
    meta: MetaClient
    files: FileTable
    credentials: CredentialsCache
    bridge: Bridge
    block_bytes: int
    now: Callable[[], float]
    directories: KnownDirectories
    told: ToldInodes = field(default_factory=ToldInodes)
    open_files: dict[int, OpenFile] = field(default_factory=dict)
    open_directories: dict[int, DirectoryStream] = field(default_factory=dict)
    last_handle: int = 0

    def next_handle(self) -> int:
        self.last_handle += 1
        return self.last_handle

    def user(self, request: Request) -> Credentials:
        raw = request.raw
        return self.credentials.of(raw.uid, raw.gid, raw.pid)

    def file(self, request: Request) -> OpenFile:
        return self.open_files[request.raw.fh]

    def seen(self, inode: Inode) -> Inode:
        """A record from meta on its way to the kernel: own writes applied, remembered as told."""
        current = self.files.observe(inode)
        self.told.note(current)
        return current

    async def protect(self, parent: InodeId, name: bytes, user: Credentials) -> None:
        """Before the name goes away: meta must keep the data for descriptors of which it does not know."""
        if not self.files.has_unpinned:
            return
        try:
            inode = await self.meta.lookup(parent, name, user=user)
        except FileError:
            return  # the removal itself will say why
        for file in self.files.unpinned(inode.id):
            await file.pin()


Operation = Callable[[Context, Request], Awaitable[None]]
