"""A metadata and a storage client that keep everything in this process: the mount alone, without a cluster.

A stand-in, for tests of the bridge and of the mount's operations. Permissions are the kernel's business here.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from threefs.client.meta.types import FsSpace, ListedEntry, Listing, Opened, RenameFlags, XattrFlags
from threefs.client.storage.types import LastChunk, ReadIO, WriteIO
from threefs.common.errors import FileError
from threefs.common.files import Credentials, DirEntry, FileType, Inode, Layout, LengthHint
from threefs.common.ids import ROOT_INODE, ChainId, ChainTableId, ChunkId, InodeId, SessionId

LAYOUT = Layout(ChainTableId(1), 1, 1 << 20, 4, (ChainId(1), ChainId(2), ChainId(3), ChainId(4)))


def now_us() -> int:
    return time.time_ns() // 1000


class MemoryStorage:
    def __init__(self) -> None:
        self.chunks: dict[ChunkId, bytearray] = {}
        self.error: Exception | None = None  # every write fails with it

    async def read(self, ios: Sequence[ReadIO], *, timeout_s: float | None = None) -> None:
        for io in ios:
            chunk = memoryview(self.chunks.get(io.chunk, b""))
            found = chunk[io.offset : io.offset + len(io.buffer)]
            io.buffer[: len(found)] = found
            io.length = len(found)

    async def write(self, ios: Sequence[WriteIO], *, timeout_s: float | None = None) -> None:
        for io in ios:
            if self.error is not None:
                raise self.error
            chunk = self.chunks.setdefault(io.chunk, bytearray())
            end = io.offset + len(io.data)
            assert end <= io.chunk_bytes
            chunk.extend(bytes(max(end - len(chunk), 0)))
            chunk[io.offset : end] = io.data

    async def truncate_chunk(
        self, chain: ChainId, chunk: ChunkId, *, length: int, chunk_bytes: int, extend_only: bool = False
    ) -> None:
        found = self.chunks.get(chunk, bytearray())
        if length > len(found):
            found.extend(bytes(length - len(found)))
            self.chunks[chunk] = found
        elif not extend_only:
            del found[length:]

    async def remove_chunks(self, chain: ChainId, inode: InodeId, *, first: int, last: int, limit: int = 1024) -> int:
        doomed = [
            chunk
            for chunk in self.chunks
            if chunk.inode == inode and first <= chunk.number < last and LAYOUT.chain_of(chunk.number) == chain
        ][:limit]
        for chunk in doomed:
            del self.chunks[chunk]
        return len(doomed)

    async def query_last_chunk(self, chain: ChainId, inode: InodeId) -> LastChunk:
        raise NotImplementedError

    async def space(self) -> tuple[int, int]:
        return 1 << 40, 1 << 39


class MemoryMeta:
    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self._numbers = itertools.count(0x1000)
        now = now_us()
        self.inodes = {
            ROOT_INODE: Inode(ROOT_INODE, FileType.DIRECTORY, 0o1777, 0, 0, 2, 0, now, now, now, parent=ROOT_INODE)
        }
        self.names: dict[InodeId, dict[bytes, InodeId]] = {ROOT_INODE: {}}
        self.xattrs: dict[InodeId, dict[bytes, bytes]] = {}
        self.sessions: dict[SessionId, InodeId] = {}

    # --- helpers ---

    def _inode(self, number: InodeId) -> Inode:
        if number not in self.inodes:
            raise FileError(errno.ESTALE, f"inode {number}")
        return self.inodes[number]

    def _change(self, number: InodeId, **changes: Any) -> Inode:
        changes.setdefault("ctime_us", now_us())
        self.inodes[number] = replace(self._inode(number), **changes)
        return self.inodes[number]

    def _find(self, parent: InodeId, name: bytes) -> Inode:
        number = self.names.get(parent, {}).get(name)
        if number is None:
            raise FileError(errno.ENOENT, name.decode(errors="replace"))
        return self.inodes[number]

    def _make(
        self,
        parent: InodeId,
        name: bytes,
        kind: FileType,
        mode: int,
        user: Credentials,
        *,
        length: int = 0,
        **more: Any,
    ) -> Inode:
        if kind is FileType.DIRECTORY:
            more["parent"] = parent
        if len(name) > 255:
            raise FileError(errno.ENAMETOOLONG)
        if name in self.names[parent]:
            raise FileError(errno.EEXIST, name.decode(errors="replace"))
        now, number, above = now_us(), InodeId(next(self._numbers)), self._inode(parent)
        gid = above.gid if above.mode & stat.S_ISGID else user.gid
        if kind is FileType.DIRECTORY and above.mode & stat.S_ISGID:
            mode |= stat.S_ISGID
        nlink = 2 if kind is FileType.DIRECTORY else 1
        self.inodes[number] = Inode(number, kind, mode, user.uid, gid, nlink, length, now, now, now, **more)
        self.names[parent][name] = number
        if kind is FileType.DIRECTORY:
            self.names[number] = {}
        self._change(parent, mtime_us=now, nlink=above.nlink + (kind is FileType.DIRECTORY))
        return self.inodes[number]

    def _drop(self, number: InodeId) -> int:
        inode = self._change(number, nlink=self._inode(number).nlink - 1)
        if not inode.nlink and number not in self.sessions.values():
            self._forget(number)
        return inode.nlink

    def _forget(self, number: InodeId) -> None:
        del self.inodes[number]
        for chunk in [chunk for chunk in self._storage.chunks if chunk.inode == number]:
            del self._storage.chunks[chunk]

    def _apply(self, number: InodeId, hint: LengthHint | None) -> Inode:
        inode = self._inode(number)
        if hint is None:
            ends = [
                chunk.number * LAYOUT.chunk_bytes + len(data)
                for chunk, data in self._storage.chunks.items()
                if chunk.inode == number
            ]
            return self._change(number, length=max(ends, default=0))
        length = max(inode.length, hint.length) if hint.truncate_version == inode.truncate_version else inode.length
        if hint.mtime_us:
            return self._change(number, length=length, mtime_us=hint.mtime_us, ctime_us=hint.mtime_us)
        return self._change(number, length=length, ctime_us=inode.ctime_us)

    # --- the client's methods ---

    async def lookup(self, parent: InodeId, name: bytes, *, user: Credentials | None = None) -> Inode:
        return self._find(parent, name)

    async def stat(self, inode: InodeId, *, user: Credentials | None = None) -> Inode:
        return self._inode(inode)

    async def readlink(self, inode: InodeId, path: bytes = b"", *, user: Credentials | None = None) -> bytes:
        return os.fsencode(self._inode(inode).symlink)

    async def list(
        self, inode: InodeId, *, after: bytes = b"", limit: int = 0, attributes: bool = True, user: Any = None
    ) -> Listing:
        names = sorted(name for name in self.names[inode] if name > after)
        page = [
            ListedEntry(
                DirEntry(name, number := self.names[inode][name], self.inodes[number].type),
                self.inodes[number] if attributes else None,
            )
            for name in names[: limit or 128]
        ]
        return Listing(page, len(names) > len(page))

    async def statfs(self) -> FsSpace:
        return FsSpace(*await self._storage.space())

    async def create(
        self, parent: InodeId, name: bytes, *, mode: int, flags: int, layout: Any = None, pin: bool = False, user: Any
    ) -> Opened:
        created = name not in self.names[parent]
        if created:
            self._make(parent, name, FileType.FILE, mode, user, layout=LAYOUT)
        elif flags & os.O_EXCL:
            raise FileError(errno.EEXIST)
        return replace(await self.open(self.names[parent][name], flags, pin=pin, user=user), created=created)

    async def open(
        self, inode: InodeId, flags: int, *, path: bytes = b"", pin: bool = False, user: Any = None
    ) -> Opened:
        if flags & os.O_TRUNC and self._inode(inode).type is FileType.FILE:
            await self.truncate(inode, 0)
        found = self._inode(inode)
        session = SessionId(os.urandom(16)) if pin or flags & os.O_ACCMODE else None
        if session is not None:
            self.sessions[session] = inode
        return Opened(found, session)

    async def close(self, inode: InodeId, session: SessionId | None, hint: LengthHint | None) -> Inode:
        found = self._apply(inode, hint)
        if session is not None:
            del self.sessions[session]
            if not found.nlink and inode not in self.sessions.values():
                self._forget(inode)
        return found

    async def sync(self, inode: InodeId, hint: LengthHint | None, *, precise: bool = False, user: Any = None) -> Inode:
        return self._apply(inode, hint)

    async def report_lengths(self, hints: Any) -> None:
        for inode, hint in hints:
            if inode in self.inodes:
                self._apply(inode, hint)

    async def truncate(self, inode: InodeId, length: int, *, opened: bool = False, user: Any = None) -> Inode:
        found = self._inode(inode)
        first, within = divmod(length, LAYOUT.chunk_bytes)
        for chain in LAYOUT.chains:
            await self._storage.remove_chunks(chain, inode, first=first + bool(within), last=1 << 32, limit=1 << 20)
        chunk = self._storage.chunks.get(ChunkId(inode, first))
        if chunk is not None:
            del chunk[within:]
        now, version = now_us(), found.truncate_version + 1
        return self._change(inode, length=length, mtime_us=now, ctime_us=now, truncate_version=version)

    async def mkdir(self, parent: InodeId, name: bytes, *, mode: int, user: Credentials) -> Inode:
        return self._make(parent, name, FileType.DIRECTORY, mode, user)

    async def symlink(self, parent: InodeId, name: bytes, target: bytes, *, user: Credentials) -> Inode:
        text = os.fsdecode(target)
        return self._make(parent, name, FileType.SYMLINK, 0o777, user, symlink=text, length=len(target))

    async def mknod(
        self, parent: InodeId, name: bytes, type: FileType, *, mode: int, rdev: int = 0, user: Credentials
    ) -> Inode:
        layout = LAYOUT if type is FileType.FILE else None
        return self._make(parent, name, type, mode, user, rdev=rdev, layout=layout)

    async def link(self, source: InodeId, parent: InodeId, name: bytes, *, user: Any = None) -> Inode:
        if name in self.names[parent]:
            raise FileError(errno.EEXIST)
        self.names[parent][name] = source
        self._change(parent, mtime_us=now_us())
        return self._change(source, nlink=self._inode(source).nlink + 1)

    async def rename(
        self, parent: InodeId, name: bytes, new_parent: InodeId, new_name: bytes, *, flags: RenameFlags, user: Any
    ) -> Inode:
        moved, target = self._find(parent, name), self.names[new_parent].get(new_name)
        if flags & RenameFlags.NOREPLACE and target is not None:
            raise FileError(errno.EEXIST)
        if target == moved.id:
            return moved
        if flags & RenameFlags.EXCHANGE:
            self.names[parent][name] = self._find(new_parent, new_name).id
        else:
            if target is not None:
                is_directory = self.inodes[target].type is FileType.DIRECTORY
                await (self.rmdir if is_directory else self.unlink)(new_parent, new_name)
            del self.names[parent][name]
        self.names[new_parent][new_name] = moved.id
        if moved.type is FileType.DIRECTORY and parent != new_parent:
            self._change(parent, nlink=self._inode(parent).nlink - 1)
            self._change(new_parent, nlink=self._inode(new_parent).nlink + 1)
        return self._change(moved.id)

    async def unlink(self, parent: InodeId, name: bytes, *, user: Any = None) -> tuple[InodeId, int]:
        number = self._find(parent, name).id
        del self.names[parent][name]
        self._change(parent, mtime_us=now_us())
        return number, self._drop(number)

    async def rmdir(self, parent: InodeId, name: bytes, *, user: Any = None) -> InodeId:
        number = self._find(parent, name).id
        if self.names[number]:
            raise FileError(errno.ENOTEMPTY)
        del self.names[parent][name], self.names[number], self.inodes[number]
        self._change(parent, mtime_us=now_us(), nlink=self._inode(parent).nlink - 1)
        return number

    async def setattr(
        self,
        inode: InodeId,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_us: int | None = None,
        mtime_us: int | None = None,
        atime_now: bool = False,
        mtime_now: bool = False,
        user: Any = None,
    ) -> Inode:
        wanted = {"mode": mode, "uid": uid, "gid": gid, "atime_us": atime_us, "mtime_us": mtime_us}
        wanted |= {"atime_us": now_us()} if atime_now else {}
        wanted |= {"mtime_us": now_us()} if mtime_now else {}
        return self._change(inode, **{key: value for key, value in wanted.items() if value is not None})

    async def getxattr(self, inode: InodeId, name: bytes, *, user: Any = None) -> bytes:
        values = self.xattrs.get(inode, {})
        if name not in values:
            raise FileError(errno.ENODATA)
        return values[name]

    async def setxattr(self, inode: InodeId, name: bytes, value: bytes, *, flags: XattrFlags, user: Any = None) -> None:
        values = self.xattrs.setdefault(inode, {})
        if flags & XattrFlags.CREATE and name in values:
            raise FileError(errno.EEXIST)
        if flags & XattrFlags.REPLACE and name not in values:
            raise FileError(errno.ENODATA)
        values[name] = value

    async def listxattr(self, inode: InodeId, *, user: Any = None) -> Sequence[bytes]:
        return list(self.xattrs.get(inode, {}))

    async def removexattr(self, inode: InodeId, name: bytes, *, user: Any = None) -> None:
        if self.xattrs.get(inode, {}).pop(name, None) is None:
            raise FileError(errno.ENODATA)
