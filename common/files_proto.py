"""Inodes, layouts and credentials between `common.files` and their messages. The only place that knows both forms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, cast

from threefs.common.errors import BadRequest
from threefs.common.files import Credentials, FileType, Inode, Layout
from threefs.common.ids import ChainId, ChainTableId, InodeId
from threefs.proto import meta_pb2 as pb

_TYPES: Final = {int(member): member for member in FileType}


def path_bytes(path: bytes | str) -> bytes:
    """A name or path as it travels: bytes; text is UTF-8 with undecodable bytes escaped as the os module does."""
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")


def path_text(path: bytes) -> str:
    """Inverse of `path_bytes` for text."""
    return path.decode("utf-8", "surrogateescape")


def file_type(number: int) -> FileType:
    """BadRequest for a number that this release does not know."""
    found = _TYPES.get(number)
    if found is None:
        raise BadRequest(f"file type {number} is unknown; known are {[int(t) for t in FileType]}")
    return found


def layout_to_proto(layout: Layout) -> pb.Layout:
    return pb.Layout(
        table=layout.table,
        table_version=layout.table_version,
        chunk_bytes=layout.chunk_bytes,
        stripe=layout.stripe,
        chains=layout.chains,
    )


def layout_from_proto(message: pb.Layout) -> Layout:
    chains: tuple[ChainId, ...] = tuple(cast(Sequence[ChainId], message.chains))
    return Layout(ChainTableId(message.table), message.table_version, message.chunk_bytes, message.stripe, chains)


def inode_to_proto(inode: Inode, *, bare: bool = False) -> pb.Inode:
    """`bare`: without the layout."""
    message = pb.Inode(
        id=inode.id,
        type=inode.type,
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        nlink=inode.nlink,
        length=inode.length,
        atime_us=inode.atime_us,
        mtime_us=inode.mtime_us,
        ctime_us=inode.ctime_us,
        parent=inode.parent,
        rdev=inode.rdev,
        truncate_version=inode.truncate_version,
        flags=inode.flags,
    )
    layout = inode.layout
    if layout is not None and not bare:  # filled in place: a copy of a message costs as much as all of this
        placed = message.layout
        placed.table = layout.table
        placed.table_version = layout.table_version
        placed.chunk_bytes = layout.chunk_bytes
        placed.stripe = layout.stripe
        placed.chains.extend(layout.chains)
    if inode.symlink:
        message.symlink = path_bytes(inode.symlink)
    return message


def inode_from_proto(message: pb.Inode) -> Inode:
    return Inode(
        InodeId(message.id),
        file_type(message.type),
        message.mode,
        message.uid,
        message.gid,
        message.nlink,
        message.length,
        message.atime_us,
        message.mtime_us,
        message.ctime_us,
        layout_from_proto(message.layout) if message.HasField("layout") else None,
        InodeId(message.parent),
        path_text(message.symlink) if message.symlink else "",
        message.rdev,
        message.truncate_version,
        message.flags,
    )


def credentials_to_proto(user: Credentials) -> pb.Credentials:
    return pb.Credentials(uid=user.uid, gid=user.gid, groups=user.groups, token=user.token)


_plain_credentials = lru_cache(maxsize=4096)(Credentials)  # by far most requests come from a few users


def credentials_from_proto(message: pb.Credentials) -> Credentials:
    if not message.groups and not message.token:
        return _plain_credentials(message.uid, message.gid)
    return Credentials(message.uid, message.gid, tuple(message.groups), message.token)
