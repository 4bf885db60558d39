"""The metadata client: one typed async method for each operation. Used by files, FUSE, the command line and tools.

Places are given as a directory's inode and a name, or as an inode alone. A name may be a whole path: the daemon
resolves it from that inode within the same transaction, so `(ROOT_INODE, "/a/b/c")` serves callers that have paths.
Every method takes `user` to act for somebody else than the client's default credentials; every method raises
`FileError` with the errno that the same system call would give.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from threefs.client.meta.transport import MetaCaller, MetaNodes, fixed_nodes, routed_nodes
from threefs.client.meta.types import (
    At,
    FsSpace,
    LengthHint,
    ListedEntry,
    Listing,
    Opened,
    RemoveKind,
    RenameFlags,
    XattrFlags,
)
from threefs.common.errors import FileError
from threefs.common.files import Credentials, DirEntry, FileType, Inode, Layout
from threefs.common.files_proto import (
    file_type,
    inode_from_proto,
    layout_to_proto,
    path_bytes,
    path_text,
)
from threefs.common.ids import ROOT_INODE, ClientId, InodeId, SessionId
from threefs.common.net.interface import Transport
from threefs.common.runtime.interface import Runtime
from threefs.proto import meta_pb2 as pb
from threefs.proto.meta_rpc import Meta

Name = bytes | str

ROOT_USER: Final = Credentials(0, 0)
STORAGE_ATTEMPT_S: Final = 30.0  # one attempt of an operation that waits for storage (truncate, precise lengths)
BATCH_ITEMS_MAX: Final = 1024


def _at(inode: int, path: Name = b"") -> pb.At:
    return pb.At(inode=inode, path=path_bytes(path))


def _hint(hint: LengthHint | None) -> pb.LengthHint | None:
    if hint is None:
        return None
    return pb.LengthHint(length=hint.length, truncate_version=hint.truncate_version, mtime_us=hint.mtime_us)


class MetaClient:
    """Safe for concurrent use by one event loop. A cancelled call may still be carried out."""

    def __init__(
        self,
        runtime: Runtime,
        transport: Transport,
        nodes: MetaNodes | Sequence[str],
        client_id: ClientId,
        *,
        user: Credentials = ROOT_USER,
        timeout_s: float = 60.0,
        attempt_s: float = 5.0,
    ) -> None:
        """`nodes`: `routed_nodes(routing)` or a list of addresses. `timeout_s` is the time of one method, over all
        attempts; `attempt_s` that of one attempt, after which the next daemon is asked."""
        self._runtime = runtime
        self.client_id = client_id
        self.user = user
        source = nodes if callable(nodes) else fixed_nodes(nodes)
        self._caller = MetaCaller(runtime, transport, source, client_id, timeout_s=timeout_s, attempt_s=attempt_s)

    def _header(self, user: Credentials | None, *, mutation: bool = False) -> pb.Header:
        return self._caller.header(user or self.user, mutation=mutation)

    @property
    def caller(self) -> MetaCaller:
        """For the administration calls that live in modules of their own (`users`, `scan`)."""
        return self._caller

    # --- looking ------------------------------------------------------------------------------------------------

    async def lookup(
        self, parent: InodeId, name: Name, *, user: Credentials | None = None, bare: bool = False
    ) -> Inode:
        """The inode that `name` leads to; a symlink at the end is not followed. `bare`: without its layout."""
        request = pb.StatRequest(header=self._header(user), at=_at(parent, name), bare=bare)
        return inode_from_proto((await self._caller.call(Meta.STAT, request)).inode)

    async def stat(self, inode: InodeId, *, user: Credentials | None = None, bare: bool = False) -> Inode:
        request = pb.StatRequest(header=self._header(user), at=_at(inode), bare=bare)
        return inode_from_proto((await self._caller.call(Meta.STAT, request)).inode)

    async def stat_path(
        self, path: Name, *, base: InodeId = ROOT_INODE, follow: bool = True, user: Credentials | None = None
    ) -> Inode:
        request = pb.StatRequest(header=self._header(user), at=_at(base, path), follow=follow)
        return inode_from_proto((await self._caller.call(Meta.STAT, request)).inode)

    async def batch_stat(
        self, items: Iterable[At], *, follow: bool = False, user: Credentials | None = None
    ) -> list[Inode | FileError]:
        """One result for each place, in order; a place that cannot be reached gives its error."""
        places = [_at(item.inode, item.path) for item in items]
        results: list[Inode | FileError] = []
        for start in range(0, len(places), BATCH_ITEMS_MAX):
            page = places[start : start + BATCH_ITEMS_MAX]
            request = pb.BatchStatRequest(header=self._header(user), items=page, follow=follow)
            reply = await self._caller.call(Meta.BATCH_STAT, request)
            for place, result in zip(page, reply.results, strict=True):
                error = FileError(result.errno, path_text(place.path) or f"inode {place.inode:#x}")
                results.append(error if result.errno else inode_from_proto(result.inode))
        return results

    async def readlink(self, inode: InodeId, path: Name = b"", *, user: Credentials | None = None) -> bytes:
        found = await self.lookup(inode, path, user=user)
        if found.type is not FileType.SYMLINK:
            raise FileError(errno.EINVAL, path_text(path_bytes(path)) or f"inode {inode:#x}")
        return path_bytes(found.symlink)

    async def list(
        self,
        inode: InodeId,
        path: Name = b"",
        *,
        after: bytes = b"",
        limit: int = 0,
        attributes: bool = True,
        user: Credentials | None = None,
    ) -> Listing:
        """One page of a directory, names after `after`; "." and ".." are not in it. `limit` 0: the daemon's choice."""
        request = pb.ListRequest(
            header=self._header(user), at=_at(inode, path), after=after, limit=limit, attributes=attributes
        )
        reply = await self._caller.call(Meta.LIST, request)
        return Listing([_listed(entry) for entry in reply.entries], reply.more)

    async def list_all(
        self, inode: InodeId, path: Name = b"", *, attributes: bool = False, user: Credentials | None = None
    ) -> AsyncIterator[ListedEntry]:
        """Every entry, page by page. What is created or removed meanwhile may or may not be seen."""
        after = b""
        while True:
            page = await self.list(inode, path, after=after, attributes=attributes, user=user)
            for entry in page.entries:
                yield entry
            if not page.more:
                return
            after = page.entries[-1].entry.name

    async def real_path(self, path: Name, *, base: InodeId = ROOT_INODE, user: Credentials | None = None) -> bytes:
        """The absolute path without symlinks, "." and ".."."""
        request = pb.RealPathRequest(header=self._header(user), at=_at(base, path))
        return (await self._caller.call(Meta.REAL_PATH, request)).path

    async def statfs(self) -> FsSpace:
        reply = await self._caller.call(Meta.STAT_FS, pb.StatFsRequest(header=self._header(None)))
        return FsSpace(reply.capacity_bytes, reply.free_bytes)

    # --- open files ---------------------------------------------------------------------------------------------

    async def create(
        self,
        parent: InodeId,
        name: Name,
        *,
        mode: int = 0o644,
        flags: int = os.O_RDWR,
        layout: Layout | None = None,
        pin: bool = False,
        user: Credentials | None = None,
    ) -> Opened:
        """open(2) with O_CREAT: creates the file, or opens it if it exists and `flags` lacks O_EXCL.

        `mode` is taken as it is: the caller applies its umask. `layout`: 0 in a field means inherited.
        `pin` as in `open`.
        """
        session = self._runtime.uuid()
        request = pb.CreateRequest(
            header=self._header(user, mutation=True), at=_at(parent, name), mode=mode, flags=flags, session=session
        )
        request.pin = pin
        if layout is not None:
            request.layout.CopyFrom(layout_to_proto(layout))
        reply = await self._caller.call(Meta.CREATE, request, attempt_s=_attempt_s(flags))
        return _opened(reply, session)

    async def open(
        self,
        inode: InodeId,
        flags: int = os.O_RDONLY,
        *,
        path: Name = b"",
        pin: bool = False,
        user: Credentials | None = None,
    ) -> Opened:
        """Checks permission, truncates if O_TRUNC, and records a write session if opened for writing.

        `pin` records a session for a reader as well: chunks of an unlinked file stay until it is closed.
        """
        session = self._runtime.uuid()
        request = pb.OpenRequest(
            header=self._header(user, mutation=True), at=_at(inode, path), flags=flags, session=session, pin=pin
        )
        reply = await self._caller.call(Meta.OPEN, request, attempt_s=_attempt_s(flags))
        return _opened(reply, session)

    async def close(
        self, inode: InodeId, session: SessionId | None, hint: LengthHint | None, *, user: Credentials | None = None
    ) -> Inode:
        """Ends a session; the length is right afterwards. Without a hint, storage is asked for it."""
        request = pb.CloseRequest(
            header=self._header(user, mutation=True), inode=inode, session=session or b"", hint=_hint(hint)
        )
        attempt_s = STORAGE_ATTEMPT_S if hint is None else None
        reply = await self._caller.call(Meta.CLOSE, request, inode=inode, attempt_s=attempt_s)
        return inode_from_proto(reply.inode)

    async def sync(
        self, inode: InodeId, hint: LengthHint | None, *, precise: bool = False, user: Credentials | None = None
    ) -> Inode:
        """Makes the length (and the time of the last write) durable; as `close`, without ending anything."""
        request = pb.SyncRequest(header=self._header(user), inode=inode, hint=_hint(hint), precise=precise)
        attempt_s = STORAGE_ATTEMPT_S if hint is None or precise else None
        reply = await self._caller.call(Meta.SYNC, request, inode=inode, attempt_s=attempt_s)
        return inode_from_proto(reply.inode)

    async def report_lengths(self, hints: Iterable[tuple[InodeId, LengthHint]]) -> None:
        """Periodic news of files that are being written; never asks storage, never fails for a file that is gone."""
        items = [pb.ReportLengthsRequest.Item(inode=inode, hint=_hint(hint)) for inode, hint in hints]
        for start in range(0, len(items), BATCH_ITEMS_MAX):
            page = items[start : start + BATCH_ITEMS_MAX]
            await self._caller.call(Meta.REPORT_LENGTHS, pb.ReportLengthsRequest(header=self._header(None), items=page))

    async def truncate(
        self, inode: InodeId, length: int, *, path: Name = b"", opened: bool = False, user: Credentials | None = None
    ) -> Inode:
        """Sets the length: chunks beyond are removed first, then the record changes. `opened`: like ftruncate(2),
        permission was checked when the file was opened for writing."""
        request = pb.TruncateRequest(
            header=self._header(user, mutation=True), at=_at(inode, path), length=length, opened=opened
        )
        reply = await self._caller.call(Meta.TRUNCATE, request, inode=inode, attempt_s=STORAGE_ATTEMPT_S)
        return inode_from_proto(reply.inode)

    async def prune_sessions(self, sessions: Sequence[tuple[InodeId, SessionId]]) -> int:
        """Ends sessions of opens whose answer never came; returns how many there were."""
        refs = [pb.SessionRef(inode=inode, session=session) for inode, session in sessions]
        request = pb.PruneSessionsRequest(header=self._header(None), sessions=refs)
        return (await self._caller.call(Meta.PRUNE_SESSIONS, request, attempt_s=STORAGE_ATTEMPT_S)).removed

    async def end_sessions(self, sessions: Sequence[tuple[InodeId, SessionId]]) -> None:
        """Ends sessions of files of which meta knows all: a close without a length, for many files at once."""
        refs = [pb.SessionRef(inode=inode, session=session) for inode, session in sessions]
        request = pb.PruneSessionsRequest(header=self._header(None), sessions=refs, settled=True)
        await self._caller.call(Meta.PRUNE_SESSIONS, request)

    # --- the namespace ------------------------------------------------------------------------------------------

    async def mkdir(
        self,
        parent: InodeId,
        name: Name,
        *,
        mode: int = 0o755,
        layout: Layout | None = None,
        user: Credentials | None = None,
    ) -> Inode:
        return await self._mkdir(parent, name, mode, False, layout, user)

    async def mkdirs(
        self,
        parent: InodeId,
        path: Name,
        *,
        mode: int = 0o755,
        layout: Layout | None = None,
        user: Credentials | None = None,
    ) -> Inode:
        """`mkdir -p`: what is missing on the way is made; the directory itself may exist."""
        return await self._mkdir(parent, path, mode, True, layout, user)

    async def _mkdir(
        self,
        parent: InodeId,
        path: Name,
        mode: int,
        parents: bool,
        layout: Layout | None,
        user: Credentials | None,
    ) -> Inode:
        request = pb.MakeDirectoryRequest(
            header=self._header(user, mutation=True), at=_at(parent, path), mode=mode, parents=parents
        )
        if layout is not None:
            request.layout.CopyFrom(layout_to_proto(layout))
        return inode_from_proto((await self._caller.call(Meta.MAKE_DIRECTORY, request)).inode)

    async def symlink(self, parent: InodeId, name: Name, target: Name, *, user: Credentials | None = None) -> Inode:
        request = pb.MakeSymlinkRequest(
            header=self._header(user, mutation=True), at=_at(parent, name), target=path_bytes(target)
        )
        return inode_from_proto((await self._caller.call(Meta.MAKE_SYMLINK, request)).inode)

    async def mknod(
        self,
        parent: InodeId,
        name: Name,
        type: FileType,
        *,
        mode: int = 0o644,
        rdev: int = 0,
        user: Credentials | None = None,
    ) -> Inode:
        """A fifo, socket, device, or an empty regular file that is not opened."""
        request = pb.MakeNodeRequest(
            header=self._header(user, mutation=True), at=_at(parent, name), type=type, mode=mode, rdev=rdev
        )
        return inode_from_proto((await self._caller.call(Meta.MAKE_NODE, request)).inode)

    async def link(
        self,
        source: InodeId,
        parent: InodeId,
        name: Name,
        *,
        source_path: Name = b"",
        follow: bool = False,
        user: Credentials | None = None,
    ) -> Inode:
        """A second name for `source`; returns its inode."""
        request = pb.LinkRequest(
            header=self._header(user, mutation=True),
            source=_at(source, source_path),
            target=_at(parent, name),
            follow=follow,
        )
        return inode_from_proto((await self._caller.call(Meta.LINK, request)).inode)

    async def rename(
        self,
        parent: InodeId,
        name: Name,
        new_parent: InodeId,
        new_name: Name,
        *,
        flags: RenameFlags = RenameFlags.NONE,
        user: Credentials | None = None,
    ) -> Inode:
        """renameat2(2); returns the inode that now has the new name."""
        request = pb.RenameRequest(
            header=self._header(user, mutation=True),
            source=_at(parent, name),
            target=_at(new_parent, new_name),
            flags=flags,
        )
        return inode_from_proto((await self._caller.call(Meta.RENAME, request)).inode)

    async def unlink(self, parent: InodeId, name: Name, *, user: Credentials | None = None) -> tuple[InodeId, int]:
        """Removes a name of something that is no directory; returns its inode and how many names it has left."""
        return await self._remove(parent, name, RemoveKind.FILE, user)

    async def rmdir(self, parent: InodeId, name: Name, *, user: Credentials | None = None) -> InodeId:
        return (await self._remove(parent, name, RemoveKind.DIRECTORY, user))[0]

    async def remove_recursive(self, parent: InodeId, name: Name, *, user: Credentials | None = None) -> InodeId:
        """Removes whatever has this name, a tree as a whole and at once; its space is freed in the background."""
        return (await self._remove(parent, name, RemoveKind.RECURSIVE, user))[0]

    async def _remove(
        self, parent: InodeId, name: Name, kind: RemoveKind, user: Credentials | None
    ) -> tuple[InodeId, int]:
        request = pb.RemoveRequest(header=self._header(user, mutation=True), at=_at(parent, name), kind=kind.name)
        attempt_s = STORAGE_ATTEMPT_S if kind is RemoveKind.RECURSIVE else None
        reply = await self._caller.call(Meta.REMOVE, request, attempt_s=attempt_s)
        return InodeId(reply.inode), reply.nlink

    # --- attributes ---------------------------------------------------------------------------------------------

    async def setattr(
        self,
        inode: InodeId,
        *,
        path: Name = b"",
        follow: bool = False,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_us: int | None = None,
        mtime_us: int | None = None,
        atime_now: bool = False,
        mtime_now: bool = False,
        user: Credentials | None = None,
    ) -> Inode:
        """chmod, chown and utimes in one; what is None stays. The length is set by `truncate`."""
        request = pb.SetAttributesRequest(
            header=self._header(user, mutation=True),
            at=_at(inode, path),
            follow=follow,
            mode=mode,
            uid=uid,
            gid=gid,
            atime_us=atime_us,
            mtime_us=mtime_us,
            atime_now=atime_now,
            mtime_now=mtime_now,
        )
        return inode_from_proto((await self._caller.call(Meta.SET_ATTRIBUTES, request)).inode)

    async def set_layout(
        self, inode: InodeId, layout: Layout, *, path: Name = b"", user: Credentials | None = None
    ) -> Inode:
        """The default of what will be created in a directory; 0 in a field leaves it as it is."""
        request = pb.SetLayoutRequest(
            header=self._header(user, mutation=True), at=_at(inode, path), layout=layout_to_proto(layout)
        )
        return inode_from_proto((await self._caller.call(Meta.SET_LAYOUT, request)).inode)

    async def getxattr(self, inode: InodeId, name: Name, *, path: Name = b"", user: Credentials | None = None) -> bytes:
        """ENODATA if there is no such attribute, EOPNOTSUPP for a kind that is not kept (POSIX ACLs)."""
        request = pb.GetXattrRequest(header=self._header(user), at=_at(inode, path), name=path_bytes(name))
        return (await self._caller.call(Meta.GET_XATTR, request)).value

    async def setxattr(
        self,
        inode: InodeId,
        name: Name,
        value: bytes,
        *,
        flags: XattrFlags = XattrFlags.NONE,
        path: Name = b"",
        user: Credentials | None = None,
    ) -> None:
        request = pb.SetXattrRequest(
            header=self._header(user, mutation=True),
            at=_at(inode, path),
            name=path_bytes(name),
            value=value,
            flags=flags,
        )
        await self._caller.call(Meta.SET_XATTR, request)

    async def listxattr(self, inode: InodeId, *, path: Name = b"", user: Credentials | None = None) -> Sequence[bytes]:
        request = pb.ListXattrsRequest(header=self._header(user), at=_at(inode, path))
        return list((await self._caller.call(Meta.LIST_XATTRS, request)).names)

    async def removexattr(
        self, inode: InodeId, name: Name, *, path: Name = b"", user: Credentials | None = None
    ) -> None:
        request = pb.RemoveXattrRequest(
            header=self._header(user, mutation=True), at=_at(inode, path), name=path_bytes(name)
        )
        await self._caller.call(Meta.REMOVE_XATTR, request)


def _attempt_s(flags: int) -> float | None:
    return STORAGE_ATTEMPT_S if flags & os.O_TRUNC else None


def _opened(reply: pb.OpenReply, session: bytes) -> Opened:
    return Opened(inode_from_proto(reply.inode), SessionId(session) if reply.session else None, reply.created)


def _listed(message: pb.ListReply.Entry) -> ListedEntry:
    entry = DirEntry(message.name, InodeId(message.inode), file_type(message.type))
    return ListedEntry(entry, inode_from_proto(message.attributes) if message.HasField("attributes") else None)


__all__ = ["MetaClient", "fixed_nodes", "routed_nodes"]
