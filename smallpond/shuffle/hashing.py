"""The hash that decides which partition a row belongs to: one definition for every engine and every release.

All arithmetic is on unsigned 64-bit numbers.

    mix(x)       x ^= x >> 33; x *= 0xff51afd7ed558ccd; x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53; x ^= x >> 33
    row          h = 0, then for each hash column in order: h = mix((h ^ value) + 0x9e3779b97f4a7c15)
    partition    ((h >> 32) * partitions) >> 32

`value` of a column's cell:

    null                  0x6e756c6c6e756c6c
    bool, integers        the number, sign-extended
    float32, float64      the bits of the float64; -0.0 as 0.0, every NaN as 0x7ff8000000000000
    date                  days; time, timestamp, duration: microseconds, rounded down
    decimal               its shortest decimal text, as a string
    string, binary        x = length in bytes, then for each 8 bytes (little-endian, the last padded with zeros):
                          x = mix(x ^ word); value = x

So equal keys meet whatever the width of their type. An integer and a float never meet: cast one of them.
The bytes are hashed in `native/shuffle.c`; the reference in numpy is tests/smallpond/shuffle/reference.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from threefs.common.errors import UserError
from threefs.native._core import ffi, lib

U64 = npt.NDArray[np.uint64]


def owners_by_hash(columns: list[pa.Array], partitions: int) -> npt.NDArray[np.uint32]:
    """The partition of each row of equally long columns."""
    hashes = hash_rows(columns)
    owners = np.empty(len(hashes), np.uint32)
    lib.shuffle_owners(
        ffi.from_buffer("uint32_t[]", owners), ffi.from_buffer("uint64_t[]", hashes), len(hashes), partitions
    )
    return owners


def hash_rows(columns: list[pa.Array]) -> U64:
    """The hash of each row of equally long columns."""
    hashes = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        _extend(hashes, canonical(column))
    return hashes


def _extend(hashes: U64, column: pa.Array) -> None:
    kind, count = column.type, len(column)
    valid, *buffers = [address(buffer) for buffer in column.buffers()]
    out = ffi.from_buffer("uint64_t[]", hashes)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = ffi.cast("uint64_t *", buffers[0] + 8 * column.offset)
        lib.shuffle_hash_numbers(out, numbers, pa.types.is_floating(kind), valid, column.offset, count)
        return
    width = offset_bytes(kind)
    offsets = buffers[0] + width * column.offset
    lib.shuffle_hash_strings(out, offsets, width, buffers[1], valid, column.offset, count)


def address(buffer: pa.Buffer | None) -> Any:
    """Where a buffer begins, as a `uint8_t *`; NULL for none. Whoever uses it keeps the array alive."""
    return ffi.NULL if buffer is None else ffi.cast("uint8_t *", buffer.address)


def offset_bytes(kind: pa.DataType) -> int:
    """The width of the offsets of a string or binary type."""
    return 8 if kind in (pa.large_string(), pa.large_binary()) else 4


def canonical(column: pa.Array) -> pa.Array:
    """The column as int64, uint64, float64, string or binary (32- or 64-bit offsets): what equal keys share."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return canonical(column.dictionary_decode())
    if pa.types.is_null(kind):
        return column.cast(pa.int64())
    if pa.types.is_boolean(kind):
        return column.cast(pa.uint8()).cast(pa.int64())
    if pa.types.is_integer(kind):
        return column if kind == pa.uint64() else column.cast(pa.int64())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    if pa.types.is_date(kind):
        return column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    if pa.types.is_time(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return _microseconds(column)
    if pa.types.is_decimal(kind):
        return _decimal_text(column)
    if kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        return column
    if kind in (pa.string_view(), pa.binary_view()) or pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    raise UserError(f"a column of type {kind} cannot be a hash key", "hash by its fields, or by its text")


def _microseconds(column: pa.Array) -> pa.Array:
    import pyarrow.compute as pc  # here: it takes as long to import as a small query runs

    kind = column.type
    if pa.types.is_time32(kind):
        column, unit = column.cast(pa.int32()).cast(pa.int64()), kind.unit
    else:
        column, unit = column.cast(pa.int64()), kind.unit
    if unit == "ns":
        negative = pc.less(column, 0)  # division rounds towards zero
        down = pc.subtract(pc.divide(pc.add(column, 1), 1000), 1)
        return pc.if_else(negative, down, pc.divide(column, 1000))
    return pc.multiply(column, {"s": 1_000_000, "ms": 1000, "us": 1}[unit])


def _decimal_text(column: pa.Array) -> pa.Array:
    import pyarrow.compute as pc  # here: it takes as long to import as a small query runs

    text = column.cast(pa.string())
    if column.type.scale <= 0:
        return text
    return pc.utf8_rtrim(pc.utf8_rtrim(text, "0"), ".")
