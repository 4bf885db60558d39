"""The frame: what every request and reply is on a TCP connection.

A header of 40 bytes, little-endian, then `body_bytes` of body, then `data_bytes` of data:

    0  magic         4s  b"3FS\\x01"
    4  version       u8  1
    5  kind          u8  1 request, 2 reply, 3 error
    6  method        u16 of the request (see `threefs.proto.rpc`)
    8  request_id    u64 chosen by the caller, unique on its connection
    16 body_bytes    u32
    20 data_bytes    u32
    24 timeout_ms    u32 requests: what the caller still waits
    28 ticket        u32 errors: errno; otherwise 0
    32 body_crc      u32 CRC32C of the body
    36 header_crc    u32 CRC32C of the 36 bytes before

Data carries its checksums in the descriptors of the body, per piece and end to end. The body of an error is the
code (u32) and the message (UTF-8). Every multi-byte number is checked against the limits below before it is used.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from threefs.native.checksum import crc32c

MAGIC: Final = b"3FS\x01"
VERSION: Final = 1
BODY_BYTES_MAX: Final = 16 << 20
DATA_BYTES_MAX: Final = 128 << 20

_FIELDS = struct.Struct("<4sBBHQIIIII")
_CRC = struct.Struct("<I")
_ERROR = struct.Struct("<I")
_WHOLE = struct.Struct("<4sBBHQIIIIII")
HEADER_BYTES: Final = _WHOLE.size
_FIELD_BYTES: Final = _FIELDS.size
assert HEADER_BYTES == 40


class Kind(enum.IntEnum):
    REQUEST = 1
    REPLY = 2
    ERROR = 3


_KINDS: Final = {int(kind): kind for kind in Kind}


class FrameDamaged(ValueError):
    """The bytes are no frame of ours; the connection cannot go on."""


class Header(NamedTuple):
    """A tuple, because one is made for each frame and tuples are made fastest."""

    kind: Kind
    method: int
    request_id: int
    body_bytes: int
    data_bytes: int
    timeout_ms: int
    ticket: int
    body_crc: int


def pack(
    kind: Kind, method: int, request_id: int, body: bytes, data_bytes: int, *, timeout_ms: int = 0, ticket: int = 0
) -> bytes:
    """Header and body in one piece; the data follows on the wire."""
    assert len(body) <= BODY_BYTES_MAX, f"body of {len(body)} bytes, at most {BODY_BYTES_MAX}"
    assert data_bytes <= DATA_BYTES_MAX, f"data of {data_bytes} bytes, at most {DATA_BYTES_MAX}"
    fields = _FIELDS.pack(
        MAGIC, VERSION, kind, method, request_id, len(body), data_bytes, timeout_ms, ticket, crc32c(body)
    )
    return fields + _CRC.pack(crc32c(fields)) + body


def unpack(raw: bytes | bytearray | memoryview) -> Header:
    """Parses and checks the header that `raw` begins with; FrameDamaged says what is wrong."""
    magic, version, kind, method, request_id, body_bytes, data_bytes, timeout_ms, ticket, body_crc, header_crc = (
        _WHOLE.unpack_from(raw)
    )
    if magic != MAGIC:
        raise FrameDamaged(f"starts with {magic!r}, expected {MAGIC!r}: the peer does not speak 3fs frames")
    if crc32c(bytes(raw[:_FIELD_BYTES])) != header_crc:
        raise FrameDamaged("checksum of the header differs")
    if version != VERSION:
        raise FrameDamaged(f"version {version}, this release speaks {VERSION}")
    known = _KINDS.get(kind)
    if known is None:
        raise FrameDamaged(f"unknown kind {kind}")
    if body_bytes > BODY_BYTES_MAX or data_bytes > DATA_BYTES_MAX:
        raise FrameDamaged(f"body of {body_bytes} and data of {data_bytes} bytes exceed the limits")
    return Header(known, method, request_id, body_bytes, data_bytes, timeout_ms, ticket, body_crc)


def check_body(header: Header, body: bytes) -> None:
    if crc32c(body) != header.body_crc:
        raise FrameDamaged(f"checksum of the body of method {header.method:#06x} differs")


def pack_error(code: int, message: str) -> bytes:
    return _ERROR.pack(code) + message.encode(errors="replace")[: BODY_BYTES_MAX - _ERROR.size]


def unpack_error(body: bytes) -> tuple[int, str]:
    if len(body) < _ERROR.size:
        raise FrameDamaged(f"error body of {len(body)} bytes")
    return _ERROR.unpack_from(body)[0], body[_ERROR.size :].decode(errors="replace")
