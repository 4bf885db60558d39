"""The data plane's descriptors: what a batch of reads or updates is on the wire. Service 5, "StorageData".

A body is an array of one fixed-size descriptor, little-endian, without padding; bulk data follows in the frame's
data part in the order of the descriptors. The storage client and the storage daemons are the only ones who pack
and parse. The one rule: nothing in a body is believed before `unpack_*` has checked it against the limits here;
what fails is `Malformed`.

    read request    target u64, chain u32, flags u32, chain version u64, chunk id 16 B, offset u32, bytes u32
    read reply      status u16, message bytes u16, bytes u32, CRC32C u32, reserved u32, version u64
    update request  target u64, sender u64, chain u32, kind u8, flags u8, reserved u16, chain version u64,
                    chunk id 16 B, version u64, offset u32, bytes u32, chunk bytes u32, CRC32C u32,
                    client 16 B, sequence u64, channel u32, reserved u32,
                    maker 16 B, its sequence u64, its channel u32, reserved u32
    update reply    status u16, message bytes u16, bytes u32, CRC32C u32, reserved u32, version u64, chain version u64

`bytes` of an update is that of its data, or the wanted length for TRUNCATE and EXTEND, which carry no data. A reply
ends with the messages of its failed elements, one after the other, in UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

READ: Final = 0x0501
WRITE: Final = 0x0502  # client to head
UPDATE: Final = 0x0503  # target to its successor

BATCH_MAX: Final = 512  # descriptors in one body
CHUNK_BYTES_MAX: Final = 64 << 20
BATCH_DATA_BYTES_MAX: Final = 64 << 20
CLIENT_ID_BYTES: Final = 16
MESSAGE_BYTES_MAX: Final = 1000

READ_RELAXED: Final = 1  # the last committed state will do, even if a newer one is on its way
READ_FLAGS: Final = READ_RELAXED

UPDATE_SYNC: Final = 1  # for a target that is being filled: REPLACE or REMOVE whatever it has
UPDATE_OWN: Final = 2  # started by a daemon, which finishes or copies a state: the maker is who made that, under the
# client, sequence and channel that the state keeps
UPDATE_FLAGS: Final = UPDATE_SYNC | UPDATE_OWN

KIND_WRITE, KIND_REPLACE, KIND_TRUNCATE, KIND_EXTEND, KIND_REMOVE = range(1, 6)
_KINDS_WITH_DATA: Final = (KIND_WRITE, KIND_REPLACE)


RawId = bytes  # 16 of them
NO_CLIENT: Final = b"\0" * CLIENT_ID_BYTES


class Malformed(ValueError):
    """The bytes are no valid body of this method."""


class ReadRequest(NamedTuple):
    target: int
    chain: int
    flags: int
    chain_version: int
    chunk: RawId
    offset: int
    bytes: int


class ReadReply(NamedTuple):
    status: int  # 0, or an error code of `common.errors`
    message_bytes: int
    bytes: int  # in the data part
    crc32c: int  # of those
    reserved: int
    version: int  # committed version they belong to


class UpdateRequest(NamedTuple):
    target: int
    sender: int  # target that forwards; 0: a client
    chain: int
    kind: int
    flags: int
    reserved: int
    chain_version: int
    chunk: RawId
    version: int  # 0 from a client: the head decides
    offset: int
    bytes: int
    chunk_bytes: int
    crc32c: int  # of the data
    client: RawId
    sequence: int  # grows with each update on a channel; the same on a retry
    channel: int
    reserved_end: int = 0
    maker: RawId = NO_CLIENT  # UPDATE_OWN; else zeros
    maker_sequence: int = 0
    maker_channel: int = 0
    reserved_maker: int = 0

    @property
    def data_bytes(self) -> int:
        return self.bytes if self.kind in _KINDS_WITH_DATA else 0


class UpdateReply(NamedTuple):
    status: int
    message_bytes: int
    bytes: int  # length of the chunk after the update
    crc32c: int  # of its whole content
    reserved: int
    version: int
    chain_version: int  # under which the tail committed


_READ_REQUEST = struct.Struct("<QIIQ16sII")
_READ_HEAD = struct.Struct("<QIIQ")
_READ_CHUNK = struct.Struct(">Q4xI")  # as `ChunkId.pack` has it
_READ_RANGE = struct.Struct("<II")
_READ_KEY = struct.Struct("<QI4xQ24x")  # parts of _READ_REQUEST
_READ_BYTES = struct.Struct("<44xI")
_READ_REPLY = struct.Struct("<HHIIIQ")
_UPDATE_REQUEST = struct.Struct("<QQIBBHQ16sQIIII16sQII16sQII")
_UPDATE_REPLY = struct.Struct("<HHIIIQQ")

# The same layouts for whole batches at once.
READ_REQUEST_ARRAY: Final = np.dtype(
    [
        ("target", "<u8"),
        ("chain", "<u4"),
        ("flags", "<u4"),
        ("chain_version", "<u8"),
        ("chunk", "V16"),
        ("offset", "<u4"),
        ("bytes", "<u4"),
    ]
)
READ_REPLY_ARRAY: Final = np.dtype(
    [
        ("status", "<u2"),
        ("message_bytes", "<u2"),
        ("bytes", "<u4"),
        ("crc32c", "<u4"),
        ("reserved", "<u4"),
        ("version", "<u8"),
    ]
)
_RESERVED_WORD = 8  # of a read request: the chunk id's reserved field, as the index of a u32
Array = np.ndarray[Any, np.dtype[np.void]]
assert READ_REQUEST_ARRAY.itemsize == _READ_REQUEST.size
assert READ_REPLY_ARRAY.itemsize == _READ_REPLY.size
READ_REQUEST_BYTES: Final = _READ_REQUEST.size
READ_REPLY_BYTES: Final = _READ_REPLY.size
UPDATE_REQUEST_BYTES: Final = _UPDATE_REQUEST.size


def _pack(layout: struct.Struct, items: Iterable[tuple[object, ...]]) -> bytes:
    pack = layout.pack
    return b"".join([pack(*item) for item in items])


def _count(layout: struct.Struct, body: bytes, what: str) -> int:
    count, rest = divmod(len(body), layout.size)
    if rest or not 1 <= count <= BATCH_MAX:
        raise Malformed(f"{what}: {len(body)} bytes are no batch of 1 to {BATCH_MAX} descriptors of {layout.size}")
    return count


def pack_reads(items: Iterable[tuple[object, ...]]) -> bytes:
    """Items are `ReadRequest`s, or plain tuples of the same fields."""
    return _pack(_READ_REQUEST, items)


def pack_read_head(target: int, chain: int, flags: int, chain_version: int) -> bytes:
    """What all reads of one call from one target have in common, to be followed by `pack_read_range`."""
    return _READ_HEAD.pack(target, chain, flags, chain_version)


def pack_read_range(inode: int, number: int, offset: int, size: int) -> bytes:
    """The rest of one read request."""
    return _READ_CHUNK.pack(inode, number) + _READ_RANGE.pack(offset, size)


def unpack_reads(body: bytes) -> Array:
    """Checked read requests (READ_REQUEST_ARRAY); Malformed if sizes, flags or ranges are wrong."""
    _count(_READ_REQUEST, body, "read request")
    items: Array = np.frombuffer(body, READ_REQUEST_ARRAY)
    sizes = items["bytes"].astype(np.uint64)
    if (items["flags"] & ~np.uint32(READ_FLAGS)).any():
        raise Malformed(f"read request has unknown flags: {items['flags'].tolist()}")
    if (items["offset"] + sizes > CHUNK_BYTES_MAX).any():
        raise Malformed(f"read request is out of range: offsets {items['offset'].tolist()}, bytes {sizes.tolist()}")
    if np.frombuffer(body, "<u4").reshape(len(items), -1)[:, _RESERVED_WORD].any():
        raise Malformed("read request names a chunk whose reserved field is not zero")
    total = int(sizes.sum())
    if total > BATCH_DATA_BYTES_MAX:
        raise Malformed(f"read request asks for {total} bytes, at most {BATCH_DATA_BYTES_MAX}")
    return items


def read_requests(items: Array) -> list[ReadRequest]:
    """The same, one object each."""
    return [ReadRequest._make(item) for item in items.tolist()]


def read_keys(body: bytes) -> set[tuple[int, int, int]]:
    """The different (target, chain, chain version) of read requests, which are not checked otherwise."""
    _count(_READ_REQUEST, body, "read request")
    return set(_READ_KEY.iter_unpack(body))


def read_bytes(body: bytes) -> int:
    """What the read requests ask for in all, unchecked."""
    return sum([asked for (asked,) in _READ_BYTES.iter_unpack(body)])


def pack_updates(items: Iterable[UpdateRequest]) -> bytes:
    return _pack(_UPDATE_REQUEST, items)


def unpack_updates(body: bytes, data_bytes: int) -> list[UpdateRequest]:
    """Checked updates whose data parts sum to `data_bytes`; Malformed otherwise."""
    _count(_UPDATE_REQUEST, body, "update")
    items = list(map(UpdateRequest._make, _UPDATE_REQUEST.iter_unpack(body)))
    for item in items:
        if (
            not KIND_WRITE <= item.kind <= KIND_REMOVE
            or item.flags & ~UPDATE_FLAGS
            or item.reserved
            or item.reserved_end
            or item.reserved_maker
            or item.chunk_bytes > CHUNK_BYTES_MAX
            or item.offset + item.bytes > item.chunk_bytes
            or item.chunk[8:12] != b"\0\0\0\0"
        ):
            raise Malformed(f"update is out of range: {item}")
    expected = sum([item.data_bytes for item in items])
    if expected != data_bytes:
        raise Malformed(f"updates announce {expected} bytes of data, {data_bytes} came")
    return items


def pack_read_replies(items: Sequence[ReadReply], messages: Sequence[bytes]) -> bytes:
    return _pack(_READ_REPLY, items) + b"".join(messages)


def pack_update_replies(items: Sequence[UpdateReply], messages: Sequence[bytes]) -> bytes:
    return _pack(_UPDATE_REPLY, items) + b"".join(messages)


def _messages(lengths: Iterable[int], rest: bytes) -> list[str]:
    found, start = [], 0
    for length in lengths:
        found.append(rest[start : start + length].decode(errors="replace") if length else "")
        start += length
    if start != len(rest):
        raise Malformed(f"reply has {len(rest)} bytes of messages, {start} announced")
    return found


def unpack_read_replies(body: bytes, count: int, data_bytes: int) -> tuple[Array, list[str]]:
    """The replies to `count` reads (READ_REPLY_ARRAY) and the messages of all if one failed; Malformed if they do
    not fit the data."""
    size = _READ_REPLY.size * count
    if len(body) < size:
        raise Malformed(f"read reply of {len(body)} bytes, expected {size} for {count} elements")
    items: Array = np.frombuffer(body, READ_REPLY_ARRAY, count)
    total = int(items["bytes"].sum(dtype=np.uint64))
    if total != data_bytes:
        raise Malformed(f"read reply announces {total} bytes of data, {data_bytes} came")
    if len(body) == size and not items["message_bytes"].any():
        return items, []
    return items, _messages(items["message_bytes"].tolist(), body[size:])


def read_replies(items: Array) -> list[ReadReply]:
    """The same, one object each."""
    return [ReadReply._make(item) for item in items.tolist()]


def unpack_update_replies(body: bytes, count: int) -> tuple[list[UpdateReply], list[str]]:
    """The replies to `count` updates and their messages."""
    size = _UPDATE_REPLY.size * count
    if len(body) < size:
        raise Malformed(f"update reply of {len(body)} bytes, expected {size} for {count} elements")
    items = list(map(UpdateReply._make, _UPDATE_REPLY.iter_unpack(memoryview(body)[:size])))
    return items, _messages([item.message_bytes for item in items], body[size:])


def clip_message(text: str) -> bytes:
    """A message as a reply carries it."""
    return text.encode(errors="replace")[:MESSAGE_BYTES_MAX]
