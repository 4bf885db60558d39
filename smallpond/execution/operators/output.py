"""How rows become the result of a task: a few stay in the descriptor, more go to a parquet file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pyarrow as pa

from threefs.smallpond.common import INLINE_BYTES_MAX
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.io.arrow import ParquetOptions, RowRange, write_parquet
from threefs.smallpond.logical.dataset import ArrowTableDataSet, DataSet, ParquetDataSet

Result = tuple[DataSet, int | None]  # rows None: not counted


def keep(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    context: TaskContext,
    options: ParquetOptions,
    *,
    inline: bool = True,
) -> Result:
    """The result with these rows; nothing is left behind when the batches raise."""
    held, more = _head(iter(batches))
    if inline and not more:
        table = pa.Table.from_batches(held, schema)
        return ArrowTableDataSet(table), table.num_rows
    path = context.output_file(".parquet")
    rows = write_parquet(itertools.chain(held, more), schema, path, options, context.metadata())
    return parquet_file(path, rows), rows


def parquet_file(path: str, rows: int) -> ParquetDataSet:
    """A data set of one file whose rows are known: nobody needs to read the footer again to count them."""
    return ParquetDataSet.of_known([RowRange(path, 0, rows, 0, rows)])


def _head(
    batches: Iterator[pa.RecordBatch],
) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch] | Iterator[pa.RecordBatch]]:
    """The first batches, up to what may stay inline, and the rest (empty when that was all)."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.get_total_buffer_size() if batch.num_rows > 4096 else batch.nbytes
        if size > INLINE_BYTES_MAX:
            return held, batches
    return held, []
