"""One round of a shuffle: many batches in memory become one batch a partition. `write` is its only caller.

Two passes over the batches, each done by several threads: the first finds every row's owner and counts rows and
string bytes a partition, the second moves each value to its place. Every row keeps its order within its partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from threefs.native._core import ffi, lib
from threefs.smallpond.shuffle.columns import Ranges, Scratch, Slot, column_for
from threefs.smallpond.shuffle.partitioners import Partitioner


def scattered(
    numbered: list[tuple[int, pa.RecordBatch]],
    by: Partitioner,
    schema: pa.Schema,
    pool: ThreadPoolExecutor,
    scratch: Scratch,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(partition, its rows) for each partition that has rows, in order. `schema` is that of the result.

    Use each batch before the next round begins: its memory is `scratch`.
    """
    slots = list(pool.map(lambda item: _slot(item[1], item[0], by, schema), numbered))
    ranges = _place(slots, pool)
    columns = [column_for(kind, index, slots, ranges, scratch) for index, kind in enumerate(schema.types)]
    jobs = [(column, number, slot) for column in columns for number, slot in enumerate(slots)]
    _finish(pool.map(lambda job: job[0].scatter(job[1], job[2]), jobs))
    for partition in np.flatnonzero(np.diff(ranges.starts)):
        arrays = [column.part(int(partition)) for column in columns]
        yield int(partition), pa.RecordBatch.from_arrays(arrays, schema=schema)


def _slot(batch: pa.RecordBatch, number: int, by: Partitioner, schema: pa.Schema) -> Slot:
    owners = by.owners(batch, number)
    counts = np.zeros(by.partitions, np.uint64)
    wrong = lib.shuffle_count(
        ffi.from_buffer("uint64_t[]", counts), ffi.from_buffer("uint32_t[]", owners), len(owners), by.partitions
    )
    assert not wrong, f"{by} gave a row a partition beyond {by.partitions - 1}"
    return Slot(written(batch, schema), owners, counts)


def written(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns that are written, in their written types."""
    arrays = []
    for item in schema:
        array = batch.column(item.name)
        arrays.append(array if array.type == item.type else array.cast(item.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _place(slots: list[Slot], pool: ThreadPoolExecutor) -> Ranges:
    """Gives every row its place, and returns where the partitions lie."""
    counts = np.stack([slot.counts for slot in slots])
    starts = np.concatenate([np.zeros(1, np.uint64), np.cumsum(counts.sum(axis=0), dtype=np.uint64)])
    firsts = starts[:-1] + np.cumsum(counts, axis=0) - counts

    def place(item: tuple[Slot, npt.NDArray[np.uint64]]) -> None:
        slot, following = item
        slot.places = np.empty(len(slot.owners), np.uint32)
        lib.shuffle_places(
            ffi.from_buffer("uint32_t[]", slot.places),
            ffi.from_buffer("uint64_t[]", following),
            ffi.from_buffer("uint32_t[]", slot.owners),
            len(slot.owners),
        )

    _finish(pool.map(place, zip(slots, firsts, strict=True)))
    return Ranges(starts)


def _finish(results: Iterator[None]) -> None:
    """Waits for all, and raises what one of them raised."""
    for _ in results:
        pass
