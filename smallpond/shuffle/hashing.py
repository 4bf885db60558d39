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
This module is the reference in numpy; `native` holds the form that runs, and tests hold the two against each other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from threefs.common.errors import UserError

U64 = npt.NDArray[np.uint64]
NULL: Final = np.uint64(0x6E756C6C6E756C6C)
NAN: Final = np.uint64(0x7FF8000000000000)
STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_FACTORS: Final = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_SHIFT: Final = np.uint64(33)
_HALF: Final = np.uint64(32)


def mix(x: U64) -> U64:
    for factor in _FACTORS:
        x = (x ^ (x >> _SHIFT)) * factor
    return x ^ (x >> _SHIFT)


def hash_rows(columns: list[pa.Array]) -> U64:
    """The hash of each row of equally long columns."""
    hashes = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashes = mix((hashes ^ _values(canonical(column))) + STEP)
    return hashes


def partitions_of(hashes: U64, partitions: int) -> npt.NDArray[np.uint32]:
    return (((hashes >> _HALF) * np.uint64(partitions)) >> _HALF).astype(np.uint32)


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
    text = column.cast(pa.string())
    if column.type.scale <= 0:
        return text
    return pc.utf8_rtrim(pc.utf8_rtrim(text, "0"), ".")


def _values(column: pa.Array) -> U64:
    kind = column.type
    if pa.types.is_floating(kind):
        values = _float_bits(column)
    elif pa.types.is_integer(kind):
        values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False).view(np.uint64)
    else:
        values = _byte_hashes(column)
    valid = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)
    return np.where(valid, values, NULL)


def _float_bits(column: pa.Array) -> U64:
    values = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False) + 0.0  # turns -0.0 into 0.0
    return np.where(np.isnan(values), NAN, values.view(np.uint64))


def _byte_hashes(column: pa.Array) -> U64:
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    _, raw_offsets, raw_data = column.buffers()
    width = np.dtype(np.int64 if wide else np.int32)
    count = len(column)
    offsets = np.frombuffer(raw_offsets, width, count + 1, column.offset * width.itemsize).astype(np.int64)
    data = np.frombuffer(raw_data or b"", np.uint8)
    lengths = np.diff(offsets)
    hashes = lengths.astype(np.uint64)
    for start in range(0, int(lengths.max(initial=0)), 8):
        rows = np.flatnonzero(lengths > start)
        at = offsets[rows, None] + start + np.arange(8)
        inside = start + np.arange(8) < lengths[rows, None]
        word = np.where(inside, data[np.minimum(at, len(data) - 1)], 0).astype(np.uint8)
        hashes[rows] = mix(hashes[rows] ^ word.view("<u8").ravel())
    return hashes
