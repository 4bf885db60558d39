"""The hash of smallpond/shuffle/hashing.py written down in numpy: what the native form is held against."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from threefs.smallpond.shuffle.hashing import canonical

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
