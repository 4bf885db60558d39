"""The schema: every key and record of the metadata store, packed and unpacked here and nowhere else.

Keys begin with four letters that name the kind of record. Integers inside keys are little-endian where the load
should spread over the key space (inode ids grow slowly), big-endian where the order matters (times).
Every record begins with a byte that names its version; `Corrupt` is raised for one that this release does not know.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from threefs.common.errors import Corrupt
from threefs.common.files import FileType, Inode, Layout
from threefs.common.files_proto import path_bytes, path_text
from threefs.common.ids import GC_ROOT_INODE, ChainId, ChainTableId, ClientId, InodeId, RequestId, SessionId
from threefs.common.kv.interface import prefix_end
from threefs.common.rendezvous import mix

INODE: Final = b"INOD"
ENTRY: Final = b"DENT"
SESSION: Final = b"INOS"
XATTR: Final = b"XATR"
REQUEST: Final = b"IDEM"
USER: Final = b"USER"
SINGLE: Final = b"SING"

CLUSTER_KEY: Final = SINGLE + b"cluster-id"  # the cluster that this store belongs to, as text

GC_SHARDS: Final = 16
INODE_KEY_BYTES: Final = 12  # longer ones below INODE are directory times

_U64 = struct.Struct("<Q")
_INODE = struct.Struct("<BBHIIIIQqqqQQQ")
_LAYOUT = struct.Struct("<IIII")
_ENTRY = struct.Struct("<BBQ")
_TIMES = struct.Struct("<Bqq")
_SESSION = struct.Struct("<B16sq")
_OUTCOME = struct.Struct("<BBIQ")
_VERSION: Final = 1
_FILE_TYPES: Final = {int(member): member for member in FileType}


class Entry(NamedTuple):
    """What a name leads to."""

    inode: InodeId
    type: FileType


@dataclass(frozen=True, slots=True)
class Session:
    """A file that a client holds open for writing (or that it pinned)."""

    client: ClientId
    created_us: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a mutation did, kept so that a repeated request gets the same answer."""

    inode: InodeId
    nlink: int = 0
    created: bool = False
    session: bool = False


@dataclass(frozen=True, slots=True)
class Garbage:
    """An entry of the collector's directory: an inode without names, and when it may go."""

    shard: int
    due_us: int
    inode: InodeId
    type: FileType

    @property
    def name(self) -> bytes:
        """Name under the collector's root: shard, then due time, so that one shard's entries sort by urgency."""
        return b"%02x-%016x-%016x" % (self.shard, self.due_us, self.inode)


# --- keys ---------------------------------------------------------------------------------------------------------


def inode_key(inode: int) -> bytes:
    """INOD, LE64 inode."""
    return INODE + _U64.pack(inode)


def times_key(directory: int) -> bytes:
    """INOD, LE64 inode, "t": what changes whenever the content of a directory does.

    Apart from the inode record, and written without having been read, so that any number of transactions may create
    and remove names in one directory at the same time without a conflict.
    """
    return INODE + _U64.pack(directory) + b"t"


def inode_of_key(key: bytes) -> InodeId:
    """The inode of a key whose prefix is followed by LE64 inode."""
    return InodeId(_U64.unpack_from(key, 4)[0])


def entry_key(directory: int, name: bytes) -> bytes:
    """DENT, LE64 directory, name (1 to 255 bytes)."""
    return ENTRY + _U64.pack(directory) + name


def entries_range(directory: int, after: bytes = b"") -> tuple[bytes, bytes]:
    """The keys of a directory's entries whose name is greater than `after`."""
    prefix = ENTRY + _U64.pack(directory)
    begin = prefix + after + b"\x00" if after else prefix
    return begin, prefix_end(prefix)


def name_of_key(key: bytes) -> bytes:
    """The name in an entry's or extended attribute's key."""
    return key[12:]


def session_key(inode: int, session: bytes) -> bytes:
    """INOS, LE64 inode, 16 bytes of session id. The inode's low byte comes first: it is the pruning shard."""
    return SESSION + _U64.pack(inode) + session


def sessions_range(inode: int) -> tuple[bytes, bytes]:
    prefix = SESSION + _U64.pack(inode)
    return prefix, prefix_end(prefix)


def session_of_key(key: bytes) -> SessionId:
    return SessionId(key[12:])


def xattr_key(inode: int, name: bytes) -> bytes:
    """XATR, LE64 inode, name of the attribute; the value is the attribute's, as it is."""
    return XATTR + _U64.pack(inode) + name


def xattrs_range(inode: int) -> tuple[bytes, bytes]:
    prefix = XATTR + _U64.pack(inode)
    return prefix, prefix_end(prefix)


def request_key(request: RequestId) -> bytes:
    """IDEM, the request's id. Ids begin with BE48 milliseconds since 1970: the oldest come first."""
    return REQUEST + request


def requests_before(wall_us: int) -> tuple[bytes, bytes]:
    """The keys of all requests that were made before a time."""
    return REQUEST, REQUEST + max(wall_us // 1000, 0).to_bytes(6, "big")


def request_time_us(request: RequestId) -> int:
    """When its client made a request, by the client's clock."""
    return int.from_bytes(request[:6], "big") * 1000


def user_key(uid: int) -> bytes:
    """USER, BE32 uid."""
    return USER + uid.to_bytes(4, "big")


def allocation_key(shard: int) -> bytes:
    """SING inode-alloc-<shard>: LE64 count of blocks of inode ids that this shard has handed out."""
    return SINGLE + b"inode-alloc-%d" % shard


def garbage_key(garbage: Garbage) -> bytes:
    """An ordinary entry in the directory of the collector, so that `ls` of it shows what waits."""
    return entry_key(GC_ROOT_INODE, garbage.name)


def garbage_range(shard: int, due_us: int) -> tuple[bytes, bytes]:
    """The keys of one shard's garbage that is due at a time."""
    return entry_key(GC_ROOT_INODE, b"%02x-" % shard), entry_key(GC_ROOT_INODE, b"%02x-%016x-~" % (shard, due_us))


def garbage_of(key: bytes, value: bytes) -> Garbage:
    shard, due, inode = name_of_key(key).split(b"-")
    return Garbage(int(shard, 16), int(due, 16), InodeId(int(inode, 16)), unpack_entry(value).type)


def garbage_for(inode: InodeId, type: FileType, due_us: int) -> Garbage:
    return Garbage(mix(inode) % GC_SHARDS, due_us, inode, type)


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    """Every key of one kind."""
    return prefix, prefix_end(prefix)


# --- records ------------------------------------------------------------------------------------------------------


def pack_inode(inode: Inode) -> bytes:
    """76 bytes: version, type, mode u16, uid, gid, nlink, flags u32, length u64, atime, mtime, ctime i64 (µs),
    truncate version, parent, rdev u64. A symlink's target follows; else, where there is a layout: table, table version,
    chunk bytes, stripe u32, then the chains u32 (files only). nlink of a directory is 2 + its subdirectories; 0 means
    that it is removed and waits for the collector. mtime and ctime of a directory are those of the last change of
    the record; the times record (see `times_key`) may be newer."""
    head = _INODE.pack(
        _VERSION,
        inode.type,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        inode.flags,
        inode.length,
        inode.atime_us,
        inode.mtime_us,
        inode.ctime_us,
        inode.truncate_version,
        inode.parent,
        inode.rdev,
    )
    if inode.symlink:
        return head + path_bytes(inode.symlink)
    if inode.layout is not None:
        layout = inode.layout
        chains = struct.pack(f"<{len(layout.chains)}I", *layout.chains)
        return head + _LAYOUT.pack(layout.table, layout.table_version, layout.chunk_bytes, layout.stripe) + chains
    return head


def unpack_inode(id: InodeId, raw: bytes, times: bytes | None = None) -> Inode:
    """`times` is the directory's times record, if it has one: its mtime counts, and the later ctime."""
    if raw[0] != _VERSION or len(raw) < _INODE.size:
        raise Corrupt(f"inode {id:#x} has a record of version {raw[0]} with {len(raw)} bytes, expected {_VERSION}")
    (_, kind, mode, uid, gid, nlink, flags, length, atime, mtime, ctime, truncated, parent, rdev) = _INODE.unpack_from(
        raw
    )
    type = _FILE_TYPES[kind]
    layout: Layout | None = None
    symlink = ""
    if type is FileType.SYMLINK:
        symlink = path_text(raw[_INODE.size :])
    elif len(raw) > _INODE.size:
        layout = _unpack_layout(raw)
    if times is not None:
        _, mtime, changed = _TIMES.unpack(times)
        ctime = max(ctime, changed)
    return Inode(
        id, type, mode, uid, gid, nlink, length, atime, mtime, ctime, layout, parent, symlink, rdev, truncated, flags
    )


def _unpack_layout(raw: bytes) -> Layout:
    table, version, chunk_bytes, stripe = _LAYOUT.unpack_from(raw, _INODE.size)
    start = _INODE.size + _LAYOUT.size
    chains: tuple[ChainId, ...] = struct.unpack_from(f"<{(len(raw) - start) // 4}I", raw, start)
    return Layout(ChainTableId(table), version, chunk_bytes, stripe, chains)


def pack_times(mtime_us: int, ctime_us: int) -> bytes:
    """Version, mtime i64, ctime i64 in µs."""
    return _TIMES.pack(_VERSION, mtime_us, ctime_us)


def pack_entry(entry: Entry) -> bytes:
    """Version, type u8, inode LE64."""
    return _ENTRY.pack(_VERSION, entry.type, entry.inode)


def unpack_entry(raw: bytes) -> Entry:
    version, kind, inode = _ENTRY.unpack(raw)
    if version != _VERSION:
        raise Corrupt(f"directory entry has version {version}, expected {_VERSION}")
    return Entry(inode, _FILE_TYPES[kind])


def pack_session(session: Session) -> bytes:
    """Version, client id (16 bytes), creation time i64 in µs."""
    return _SESSION.pack(_VERSION, session.client, session.created_us)


def unpack_session(raw: bytes) -> Session:
    version, client, created_us = _SESSION.unpack(raw)
    if version != _VERSION:
        raise Corrupt(f"session has version {version}, expected {_VERSION}")
    return Session(ClientId(client), created_us)


def pack_outcome(outcome: Outcome) -> bytes:
    """Version, bits (1 created, 2 session), nlink u32, inode LE64."""
    return _OUTCOME.pack(_VERSION, outcome.created | outcome.session << 1, outcome.nlink, outcome.inode)


def unpack_outcome(raw: bytes) -> Outcome:
    version, bits, nlink, inode = _OUTCOME.unpack(raw)
    if version != _VERSION:
        raise Corrupt(f"request record has version {version}, expected {_VERSION}")
    return Outcome(InodeId(inode), nlink, bool(bits & 1), bool(bits & 2))
