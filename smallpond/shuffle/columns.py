"""How the columns of a round are moved to their partitions: numbers, booleans, strings, and whatever else there is.

A column is made for a round with the slots of all its batches. `scatter` is called once a slot, from any thread, and
`part` for each partition when all slots are done. The arrays of a part are views of memory
that the next round uses again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from threefs.common.errors import UserError
from threefs.native._core import ffi, lib
from threefs.smallpond.shuffle.hashing import address, offset_bytes

Counts = npt.NDArray[np.uint64]
STRING_BYTES_MAX = 2**31 - 1  # what 32-bit offsets reach


@dataclass(slots=True)
class Slot:
    """A batch on its way: whom its rows belong to, and where they go in the round."""

    batch: pa.RecordBatch  # of the written schema
    owners: npt.NDArray[np.uint32]
    counts: Counts  # rows a partition
    places: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))


@dataclass(frozen=True, slots=True)
class Ranges:
    """Where the partitions lie in the round: partition p has rows starts[p] … starts[p + 1] - 1."""

    starts: Counts

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    @property
    def partitions(self) -> int:
        return len(self.starts) - 1

    def of(self, partition: int) -> slice:
        return slice(int(self.starts[partition]), int(self.starts[partition + 1]))


class Scratch:
    """Memory that one round leaves to the next: fresh pages cost as much as moving what goes into them."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], npt.NDArray[np.uint8]] = {}

    def take(self, column: int, purpose: str, size: int) -> npt.NDArray[np.uint8]:
        """`size` bytes of any content. What the same column took for the same purpose before is no longer valid."""
        held = self._held.get((column, purpose))
        if held is None or len(held) < size:
            held = self._held[column, purpose] = np.empty(size + size // 8, np.uint8)
        return held[:size]


class Column(Protocol):
    def scatter(self, number: int, slot: Slot) -> None:
        """Moves the values of slot `number`."""
        ...

    def part(self, partition: int) -> pa.Array: ...


def column_for(kind: pa.DataType, index: int, slots: list[Slot], ranges: Ranges, scratch: Scratch) -> Column:
    """The column's carrier; what has no native one is gathered by pyarrow."""
    if pa.types.is_boolean(kind):
        return Booleans(index, slots, ranges, scratch)
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or offset_bytes(kind) == 8:
        return Strings(kind, index, slots, ranges, scratch)
    if (
        pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind)
    ) and kind.bit_width:
        return Numbers(kind, index, slots, ranges, scratch)
    return Others(index, slots, ranges)


class _Validity:
    """A byte a row while slots are done, a bitmap a partition afterwards; nothing at all for columns without nulls."""

    def __init__(self, index: int, slots: list[Slot], ranges: Ranges, scratch: Scratch) -> None:
        self._index = index
        self._ranges = ranges
        has_nulls = any(slot.batch.column(index).null_count for slot in slots)
        self._flags = scratch.take(index, "valid", ranges.rows) if has_nulls else None
        if self._flags is not None:
            self._flags.fill(1)

    def scatter(self, slot: Slot) -> None:
        array = slot.batch.column(self._index)
        if self._flags is not None and array.null_count:
            _scatter_bits(self._flags, array.buffers()[0], array.offset, slot)

    def part(self, partition: int) -> pa.Buffer | None:
        if self._flags is None:
            return None
        flags = self._flags[self._ranges.of(partition)]
        return None if flags.all() else _bitmap(flags)


class Numbers:
    """Values of one width."""

    def __init__(self, kind: pa.DataType, index: int, slots: list[Slot], ranges: Ranges, scratch: Scratch) -> None:
        self._kind = kind
        self._index = index
        self._ranges = ranges
        self._width = kind.bit_width // 8
        self._valid = _Validity(index, slots, ranges, scratch)
        self._out = scratch.take(index, "values", ranges.rows * self._width)

    def scatter(self, number: int, slot: Slot) -> None:
        array = slot.batch.column(self._index)
        values = address(array.buffers()[1]) + array.offset * self._width
        lib.shuffle_scatter(_bytes(self._out), values, self._width, _u32(slot.places), len(array))
        self._valid.scatter(slot)

    def part(self, partition: int) -> pa.Array:
        rows = self._ranges.of(partition)
        data = pa.py_buffer(self._out[rows.start * self._width : rows.stop * self._width])
        return pa.Array.from_buffers(self._kind, rows.stop - rows.start, [self._valid.part(partition), data])


class Booleans:
    """A byte a value while slots are done: threads cannot share the bytes of a bitmap."""

    def __init__(self, index: int, slots: list[Slot], ranges: Ranges, scratch: Scratch) -> None:
        self._index = index
        self._ranges = ranges
        self._valid = _Validity(index, slots, ranges, scratch)
        self._out = scratch.take(index, "values", ranges.rows)

    def scatter(self, number: int, slot: Slot) -> None:
        array = slot.batch.column(self._index)
        _scatter_bits(self._out, array.buffers()[1], array.offset, slot)
        self._valid.scatter(slot)

    def part(self, partition: int) -> pa.Array:
        flags = self._out[self._ranges.of(partition)]
        return pa.Array.from_buffers(pa.bool_(), len(flags), [self._valid.part(partition), _bitmap(flags)])


class Strings:
    """Values of any length. Each partition has offsets of its own, which begin with 0."""

    def __init__(self, kind: pa.DataType, index: int, slots: list[Slot], ranges: Ranges, scratch: Scratch) -> None:
        self._kind = kind
        self._index = index
        self._ranges = ranges
        self._width = offset_bytes(kind)
        self._valid = _Validity(index, slots, ranges, scratch)
        sizes = np.stack([self._sizes(slot) for slot in slots])
        self._next = np.cumsum(sizes, axis=0) - sizes  # where each slot continues in each partition
        self._totals = sizes.sum(axis=0)
        if self._width == 4 and self._totals.max() > STRING_BYTES_MAX:
            raise UserError(
                f"strings of {self._totals.max():,} bytes in one partition of a round",
                "cast the column to large_string",
            )
        self._bases = np.cumsum(self._totals) - self._totals
        self._bytes = scratch.take(index, "values", int(self._totals.sum()))
        offsets = scratch.take(index, "offsets", (ranges.rows + ranges.partitions) * self._width)
        self._offsets = offsets.view(f"<u{self._width}")
        self._offsets[ranges.starts[1:] + np.arange(ranges.partitions, dtype=np.uint64)] = self._totals

    def scatter(self, number: int, slot: Slot) -> None:
        array = slot.batch.column(self._index)
        offsets, data = self._source(array)
        lib.shuffle_scatter_strings(
            ffi.from_buffer(self._offsets),
            _bytes(self._bytes),
            offsets,
            self._width,
            data,
            _u32(slot.owners),
            _u32(slot.places),
            _u64(self._bases),
            _u64(self._next[number]),
            len(array),
        )
        self._valid.scatter(slot)

    def part(self, partition: int) -> pa.Array:
        rows = self._ranges.of(partition)
        offsets = self._offsets[rows.start + partition : rows.stop + partition + 1]
        base, size = int(self._bases[partition]), int(self._totals[partition])
        buffers = [self._valid.part(partition), pa.py_buffer(offsets), pa.py_buffer(self._bytes[base : base + size])]
        return pa.Array.from_buffers(self._kind, rows.stop - rows.start, buffers)

    def _sizes(self, slot: Slot) -> Counts:
        array = slot.batch.column(self._index)
        sizes = np.zeros(self._ranges.partitions, np.uint64)
        lib.shuffle_string_sizes(_u64(sizes), _u32(slot.owners), self._source(array)[0], self._width, len(array))
        return sizes

    def _source(self, array: pa.Array) -> tuple[Any, Any]:
        _, offsets, data = array.buffers()
        return address(offsets) + array.offset * self._width, address(data)


class Others:
    """Lists, structs and whatever else: gathered by pyarrow in one piece."""

    def __init__(self, index: int, slots: list[Slot], ranges: Ranges) -> None:
        self._ranges = ranges
        self._values = pa.concat_arrays([slot.batch.column(index) for slot in slots])
        self._order = np.empty(ranges.rows, np.uint32)
        self._firsts = np.cumsum([0, *(slot.batch.num_rows for slot in slots)])

    def scatter(self, number: int, slot: Slot) -> None:
        self._order[slot.places] = np.arange(self._firsts[number], self._firsts[number + 1], dtype=np.uint32)

    def part(self, partition: int) -> pa.Array:
        return self._values.take(pa.array(self._order[self._ranges.of(partition)]))


def _scatter_bits(out: npt.NDArray[np.uint8], bits: pa.Buffer, offset: int, slot: Slot) -> None:
    lib.shuffle_scatter_bits(_bytes(out), address(bits), offset, _u32(slot.places), len(slot.places))


def _bitmap(flags: npt.NDArray[np.uint8]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _bytes(array: npt.NDArray[np.uint8]) -> Any:
    return ffi.from_buffer("uint8_t[]", array)


def _u32(array: npt.NDArray[np.uint32]) -> Any:
    return ffi.from_buffer("uint32_t[]", array)


def _u64(array: Counts) -> Any:
    return ffi.from_buffer("uint64_t[]", array)
