"""The bodies of a lookup that a mount's receiving threads ask of a metadata daemon (native/fuse_lookup.c).

Little-endian, no messages, because the asking side is C. A request is 24 bytes and the name:

    0  parent      u64 inode of the directory
    8  uid, gid    u32 each, of the caller
    16 name_bytes  u16, then 6 bytes of zeros; the name follows

A reply is 80 bytes, zero but for `status` unless that is FOUND:

    0  status      u8, then 7 bytes of zeros
    8  inode, size, blocks (of 512 bytes), rdev  u64 each
    40 atime, mtime, ctime  i64 each, µs since 1970
    64 mode (with the type's bits), nlink, uid, gid  u32 each
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

METHOD: Final = 0x0601
FOUND, NO_SUCH_NAME, ASK_IN_FULL = range(3)  # the last: by the usual request, which carries the caller's groups

_ASK = struct.Struct("<QIIH6x")
_ANSWER = struct.Struct("<B7x4Q3q4I")
NAME_BYTES_MAX: Final = 255
assert (_ASK.size, _ANSWER.size) == (24, 80)


class Malformed(ValueError):
    """The bytes are no such request."""


class Ask(NamedTuple):
    parent: int
    uid: int
    gid: int
    name: bytes


class Attributes(NamedTuple):
    """What stat(2) shows."""

    inode: int
    size: int
    blocks: int
    rdev: int
    atime_us: int
    mtime_us: int
    ctime_us: int
    mode: int
    nlink: int
    uid: int
    gid: int


def pack_ask(ask: Ask) -> bytes:
    return _ASK.pack(ask.parent, ask.uid, ask.gid, len(ask.name)) + ask.name


def unpack_ask(body: bytes) -> Ask:
    if len(body) < _ASK.size:
        raise Malformed(f"a lookup of {len(body)} bytes; {_ASK.size} at least")
    parent, uid, gid, name_bytes = _ASK.unpack_from(body)
    name = body[_ASK.size :]
    if len(name) != name_bytes or not 0 < name_bytes <= NAME_BYTES_MAX:
        raise Malformed(f"a lookup names {name_bytes} bytes and has {len(name)}; 1 to {NAME_BYTES_MAX}")
    return Ask(parent, uid, gid, name)


def pack_answer(status: int, found: Attributes | None = None) -> bytes:
    return _ANSWER.pack(status, *(found or NOTHING))


def unpack_answer(body: bytes) -> tuple[int, Attributes]:
    if len(body) != _ANSWER.size:
        raise Malformed(f"the answer to a lookup has {len(body)} bytes, not {_ANSWER.size}")
    status, *rest = _ANSWER.unpack(body)
    return status, Attributes(*rest)


NOTHING: Final = Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
