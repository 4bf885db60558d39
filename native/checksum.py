"""CRC32C over anything with the buffer protocol; runs without the GIL."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from threefs.native._core import ffi, lib


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """Extends `crc` by `data`; 0 for no bytes."""
    if type(data) is bytes:  # passed as it is, which costs half as much
        return int(lib.crc32c(crc, data, len(data)))
    return int(lib.crc32c(crc, ffi.from_buffer(data), len(data)))


def crc32c_combine(crc_a: int, crc_b: int, bytes_b: int) -> int:
    """CRC32C of a || b from those of a and b and the length of b."""
    return int(lib.crc32c_combine(crc_a, crc_b, bytes_b))


def crc32c_pieces(data: memoryview, sizes: Sequence[int]) -> list[int]:
    """CRC32C of consecutive pieces of `data`; one call into C if all have the same size."""
    if sizes and min(sizes) == max(sizes) > 0:
        found = ffi.new("uint32_t[]", len(sizes))
        lib.crc32c_units(found, sizes[0], 0, ffi.from_buffer(data), sizes[0] * len(sizes))
        return list(found)
    starts = itertools.accumulate(sizes, initial=0)
    return [crc32c(data[start : start + size]) for start, size in zip(starts, sizes, strict=False)]
