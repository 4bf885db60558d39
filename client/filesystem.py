"""The library's file system: POSIX-like calls on paths, asynchronous (`FileSystem`) and blocking (`client.blocking`).

Paths are absolute within the cluster ("/a/b"); bytes or str. Errors are `FileError`s with an errno, or the cluster
errors of `common.errors`. Symlinks are followed where POSIX follows them; paths are resolved by the metadata service,
one request an operation.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from threefs.client.file import FileTable, OpenFile
from threefs.client.meta.client import MetaClient
from threefs.client.meta.types import FsSpace, RenameFlags, XattrFlags
from threefs.client.storage.types import StorageClient
from threefs.common.errors import FileError
from threefs.common.files import Credentials, FileType, Inode, Layout
from threefs.common.ids import ROOT_INODE
from threefs.common.runtime.interface import Runtime
from threefs.native.buffers import buffer

Path = str | bytes
COPY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """What `scandir` yields: a name and its attributes."""

    name: str
    inode: Inode

    def is_dir(self) -> bool:
        return self.inode.type is FileType.DIRECTORY

    def is_file(self) -> bool:
        return self.inode.type is FileType.FILE


def split(path: Path) -> tuple[bytes, bytes]:
    """(directory, name) of an absolute path; EINVAL without a name (the root)."""
    directory, _, name = absolute(path).rstrip(b"/").rpartition(b"/")
    if not name:
        raise FileError(errno.EINVAL, os.fsdecode(path))
    return directory or b"/", name


def absolute(path: Path) -> bytes:
    raw = os.fsencode(path)
    if not raw.startswith(b"/"):
        raise FileError(errno.EINVAL, f"{os.fsdecode(path)} (paths start with /)")
    return raw


class FileSystem:
    """One client's view of a cluster. Safe for concurrent use by one event loop; `client.connect` makes it."""

    def __init__(
        self, runtime: Runtime, meta: MetaClient, storage: StorageClient, *, user: Credentials | None = None
    ) -> None:
        self.meta = meta
        self.storage = storage
        self.files = FileTable(runtime, meta, storage)
        self._user = user

    # --- files --------------------------------------------------------------------------------------------------

    async def open(
        self, path: Path, flags: int = os.O_RDONLY, *, mode: int = 0o644, layout: Layout | None = None
    ) -> OpenFile:
        """open(2). The result has pread, pwrite, append, truncate, fsync and close."""
        raw = absolute(path)
        if flags & os.O_CREAT:
            return await self.files.create(ROOT_INODE, raw, flags, mode=mode, layout=layout, user=self._user)
        return await self.files.open(ROOT_INODE, flags, path=raw, user=self._user)

    async def read_bytes(self, path: Path, offset: int = 0, size: int | None = None) -> bytes:
        """The content of a file, or `size` bytes of it from `offset`."""
        file = await self.open(path)
        try:
            left = max(0, file.attributes().length - offset)
            view = buffer(left if size is None else min(size, left))
            return bytes(view[: await file.pread(offset, [view])])
        finally:
            await file.close()

    async def write_bytes(self, path: Path, data: bytes | bytearray | memoryview, *, mode: int = 0o644) -> None:
        """Replaces the content of a file; durable when it returns."""
        file = await self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=mode)
        try:
            await file.pwrite(0, memoryview(data))
        finally:
            await file.close()

    async def readinto(self, path: Path, view: memoryview, offset: int = 0) -> int:
        """Fills `view` from a file without a copy in between; bytes read."""
        file = await self.open(path)
        try:
            return await file.pread(offset, [view])
        finally:
            await file.close()

    async def truncate(self, path: Path, length: int) -> Inode:
        return await self.meta.truncate(ROOT_INODE, length, path=absolute(path), user=self._user)

    # --- looking ------------------------------------------------------------------------------------------------

    async def stat(self, path: Path) -> Inode:
        return self.files.observe(await self.meta.stat_path(absolute(path), user=self._user))

    async def lstat(self, path: Path) -> Inode:
        return self.files.observe(await self.meta.stat_path(absolute(path), follow=False, user=self._user))

    async def exists(self, path: Path) -> bool:
        try:
            await self.stat(path)
        except FileError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        return True

    async def scandir(self, path: Path) -> list[Entry]:
        """Names and attributes of a directory, in name order."""
        found = await self.stat(path)
        listed = self.meta.list_all(found.id, attributes=True, user=self._user)
        return [Entry(os.fsdecode(item.entry.name), item.inode) async for item in listed if item.inode is not None]

    async def listdir(self, path: Path) -> list[str]:
        found = await self.stat(path)
        return [os.fsdecode(item.entry.name) async for item in self.meta.list_all(found.id, user=self._user)]

    async def walk(self, path: Path) -> AsyncIterator[tuple[str, list[str], list[Entry]]]:
        """As os.walk, top down: (directory, names of directories in it, everything else in it)."""
        entries = await self.scandir(path)
        names = [entry.name for entry in entries if entry.is_dir()]
        yield os.fsdecode(path), names, [entry for entry in entries if not entry.is_dir()]
        for name in names:
            async for found in self.walk(os.path.join(os.fsdecode(path), name)):
                yield found

    async def readlink(self, path: Path) -> str:
        return os.fsdecode(await self.meta.readlink(ROOT_INODE, absolute(path), user=self._user))

    async def realpath(self, path: Path) -> str:
        return os.fsdecode(await self.meta.real_path(absolute(path), user=self._user))

    async def statfs(self) -> FsSpace:
        return await self.meta.statfs()

    # --- the namespace ------------------------------------------------------------------------------------------

    async def mkdir(self, path: Path, mode: int = 0o755, *, layout: Layout | None = None) -> Inode:
        return await self.meta.mkdir(ROOT_INODE, absolute(path), mode=mode, layout=layout, user=self._user)

    async def makedirs(self, path: Path, mode: int = 0o755) -> Inode:
        return await self.meta.mkdirs(ROOT_INODE, absolute(path), mode=mode, user=self._user)

    async def remove(self, path: Path) -> None:
        await self.meta.unlink(ROOT_INODE, absolute(path), user=self._user)

    async def rmdir(self, path: Path) -> None:
        await self.meta.rmdir(ROOT_INODE, absolute(path), user=self._user)

    async def rmtree(self, path: Path) -> None:
        """Removes a tree at once; its space is freed in the background."""
        await self.meta.remove_recursive(ROOT_INODE, absolute(path), user=self._user)

    async def rename(self, old: Path, new: Path, *, flags: RenameFlags = RenameFlags.NONE) -> Inode:
        return await self.meta.rename(
            ROOT_INODE, absolute(old), ROOT_INODE, absolute(new), flags=flags, user=self._user
        )

    async def symlink(self, target: Path, path: Path) -> Inode:
        return await self.meta.symlink(ROOT_INODE, absolute(path), os.fsencode(target), user=self._user)

    async def link(self, source: Path, path: Path) -> Inode:
        return await self.meta.link(
            ROOT_INODE, ROOT_INODE, absolute(path), source_path=absolute(source), user=self._user
        )

    # --- attributes ---------------------------------------------------------------------------------------------

    async def chmod(self, path: Path, mode: int) -> Inode:
        return await self.meta.setattr(ROOT_INODE, path=absolute(path), follow=True, mode=mode, user=self._user)

    async def chown(self, path: Path, uid: int | None = None, gid: int | None = None) -> Inode:
        return await self.meta.setattr(ROOT_INODE, path=absolute(path), follow=True, uid=uid, gid=gid, user=self._user)

    async def utime(self, path: Path, *, atime_us: int | None = None, mtime_us: int | None = None) -> Inode:
        """Sets times; what is None becomes now if both are, else stays."""
        now = atime_us is None and mtime_us is None
        return await self.meta.setattr(
            ROOT_INODE,
            path=absolute(path),
            follow=True,
            atime_us=atime_us,
            mtime_us=mtime_us,
            atime_now=now,
            mtime_now=now,
            user=self._user,
        )

    async def set_layout(self, path: Path, layout: Layout) -> Inode:
        """The layout of what will be created in a directory; 0 in a field leaves it."""
        return await self.meta.set_layout(ROOT_INODE, layout, path=absolute(path), user=self._user)

    async def getxattr(self, path: Path, name: str) -> bytes:
        return await self.meta.getxattr(ROOT_INODE, name, path=absolute(path), user=self._user)

    async def setxattr(self, path: Path, name: str, value: bytes, *, flags: XattrFlags = XattrFlags.NONE) -> None:
        await self.meta.setxattr(ROOT_INODE, name, value, flags=flags, path=absolute(path), user=self._user)

    async def listxattr(self, path: Path) -> list[str]:
        return [os.fsdecode(name) for name in await self.meta.listxattr(ROOT_INODE, path=absolute(path))]

    async def removexattr(self, path: Path, name: str) -> None:
        await self.meta.removexattr(ROOT_INODE, name, path=absolute(path), user=self._user)
