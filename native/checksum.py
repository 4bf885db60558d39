"""CRC32C over anything with the buffer protocol; runs without the GIL."""

from __future__ import annotations

from threefs.native._core import ffi, lib


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """Extends `crc` by `data`; 0 for no bytes."""
    return int(lib.crc32c(crc, ffi.from_buffer(data), len(data)))


def crc32c_combine(crc_a: int, crc_b: int, bytes_b: int) -> int:
    """CRC32C of a || b from those of a and b and the length of b."""
    return int(lib.crc32c_combine(crc_a, crc_b, bytes_b))
