"""Arrow arrays of plain Python values, made without `pa.array`: its first call imports pandas, to know whether it was
given a piece of it, and that takes longer than a small query. Sessions and workers make their columns here.

One rule: whatever is not plain (one type of int, float, bool or str, and None) goes to `pa.array`, so that types are
always those that Arrow infers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

TEXT_BYTES_MAX = (1 << 31) - 1  # of one string array: its offsets are 32 bits wide


def array_of(values: Sequence[Any]) -> pa.Array:
    """What `pa.array(values)` makes of them."""
    kinds = set(map(type, values))
    has_nulls = type(None) in kinds
    kinds.discard(type(None))
    maker = _MAKERS.get(kinds.pop()) if len(kinds) == 1 else None
    filled = None
    if maker is not None:
        filled = maker([maker.blank if value is None else value for value in values] if has_nulls else values)
    if maker is None or filled is None:
        return pa.array(values)
    present = None
    if has_nulls:
        present = _bits(np.fromiter((value is not None for value in values), np.bool_, len(values)))
    return pa.Array.from_buffers(maker.type, len(values), [present, *filled])


def table_of(columns: dict[str, Sequence[Any]]) -> pa.Table:
    return pa.table({name: array_of(values) for name, values in columns.items()})


def empty_table(schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches([], schema)


def _bits(flags: np.ndarray[Any, Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


class _Numbers:
    def __init__(self, kind: pa.DataType, blank: float) -> None:
        self.type, self.blank = kind, blank

    def __call__(self, values: Sequence[Any]) -> list[pa.Buffer] | None:
        try:
            return [pa.py_buffer(np.array(values, self.type.to_pandas_dtype()))]
        except OverflowError:  # an int of more than 64 bits: Arrow knows what to do, or says what is wrong
            return None


class _Flags:
    type, blank = pa.bool_(), False

    def __call__(self, values: Sequence[Any]) -> list[pa.Buffer]:
        return [_bits(np.array(values, np.bool_))]


class _Texts:
    type, blank = pa.string(), ""

    def __call__(self, values: Sequence[Any]) -> list[pa.Buffer] | None:
        try:
            data = [value.encode() for value in values]
        except UnicodeEncodeError:  # half of a surrogate pair: Arrow says so
            return None
        ends = np.zeros(len(data) + 1, np.int64)
        np.cumsum([len(text) for text in data], out=ends[1:])
        if ends[-1] > TEXT_BYTES_MAX:
            return None
        return [pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(data))]


_MAKERS: dict[type, Any] = {
    int: _Numbers(pa.int64(), 0),
    float: _Numbers(pa.float64(), 0.0),
    bool: _Flags(),
    str: _Texts(),
}
