"""Replies to batches of reads, checked as a whole in C."""

from __future__ import annotations

from threefs.native._core import ffi, lib

REQUEST_BYTES = ffi.sizeof("struct engine_frame_read")
REPLY_BYTES = ffi.sizeof("struct engine_frame_reply")


def is_plain(requests: bytes, replies: bytes, count: int, data: memoryview) -> bool:
    """Every read was answered in full, without error, by `data`, whose checksums are right."""
    assert len(requests) == REQUEST_BYTES * count, f"{len(requests)} bytes are not {count} requests"
    assert len(replies) == REPLY_BYTES * count, f"{len(replies)} bytes are not {count} replies"
    return bool(lib.read_reply_is_plain(requests, replies, count, ffi.from_buffer("uint8_t[]", data), len(data)))
