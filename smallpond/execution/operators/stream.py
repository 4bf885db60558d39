"""The user's Python on streams of batches; what is done is written as it comes, and a retry goes on from there.

A checkpoint is a file of the task beside its output: the output files that are complete, and per input how many batches
they cover. It is written atomically after the output files it names, and removed by nobody: a finished task's record
makes it meaningless. One rule: a batch counts as done only when all output that it led to is in a finished file.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from threefs.smallpond.execution.operators.compute import as_table, frames_of, user_code
from threefs.smallpond.execution.operators.output import Result
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.io import filesystem
from threefs.smallpond.io.arrow import RowRange, rebatch, write_parquet
from threefs.smallpond.logical.dataset import ArrowTableDataSet, DataSet, ParquetDataSet
from threefs.smallpond.logical.node import (
    ArrowBatchNode,
    ArrowStreamNode,
    PandasBatchNode,
    PolarsBatchNode,
    StreamOutput,
)
from threefs.smallpond.utility import ConcurrentIter


@dataclass
class Checkpoint:
    """Output files with their rows, and the batches of each input that they cover."""

    files: list[tuple[str, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)


class CountedReader:
    """A reader from the first batch that is not done; counts the batches that it hands out."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch], skipped: int) -> None:
        self.schema = schema
        self.index = skipped  # of the next batch
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        batch = next(self._batches)
        self.index += 1
        return batch

    def __enter__(self) -> CountedReader:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read_next_batch(self) -> pa.RecordBatch:
        return next(self)

    def read_all(self) -> pa.Table:
        return pa.Table.from_batches(list(self), self.schema)


class Writer:
    """Output tables in, finished files and checkpoints out."""

    def __init__(self, node: ArrowStreamNode, context: TaskContext, checkpoint: Checkpoint) -> None:
        self._node = node
        self._context = context
        self._checkpoint = checkpoint
        self._held: list[pa.Table] = []
        self._last = time.monotonic()
        self.schema: pa.Schema | None = None

    def add(self, table: pa.Table) -> None:
        self.schema = self.schema or table.schema
        self._held.append(table.cast(self.schema) if not table.schema.equals(self.schema) else table)

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._node.secs_checkpoint_interval

    def flush(self) -> None:
        """What is held becomes a finished file."""
        if not self._held or self.schema is None:
            return
        number = len(self._checkpoint.files)
        path = self._context.output_file(f".{number}.parquet.part")
        batches = (batch for table in self._held for batch in table.to_batches())
        rows = write_parquet(batches, self.schema, path, self._node.parquet_options, self._context.metadata())
        final = os.path.join(
            self._context.output_dir, f"{_stem(self._context)}.{number}.{self._context.attempt}.parquet"
        )
        filesystem.rename(path, final)
        self._checkpoint.files.append((final, rows))
        self._held = []

    def save(self, batches: Sequence[int]) -> None:
        """Everything up to these batches is done."""
        self.flush()
        self._checkpoint.batches = list(batches)
        filesystem.dump(self._checkpoint, _checkpoint_path(self._context), atomic_write=True)
        self._last = time.monotonic()

    def result(self) -> Result:
        if not self._checkpoint.files:
            table = pa.Table.from_batches([], self.schema or pa.schema([]))
            held = pa.concat_tables([table, *self._held]) if self._held else table
            if held.nbytes <= 1 << 14:
                return ArrowTableDataSet(held), held.num_rows
        self.flush()
        ranges = [RowRange(path, 0, rows, 0, rows) for path, rows in self._checkpoint.files]
        return ParquetDataSet.of_known(ranges), sum(item.num_rows for item in ranges)


def run(node: ArrowStreamNode, role: str, context: TaskContext, inputs: Sequence[DataSet | None]) -> Result:
    present = [item for item in inputs if item is not None]
    checkpoint = load_checkpoint(context, len(present))
    readers = [_reader(node, item, done) for item, done in zip(present, checkpoint.batches, strict=True)]
    writer = Writer(node, context, checkpoint)
    with user_code(node, context):
        for output in _process(node, context, readers):
            found = output if isinstance(output, StreamOutput) else None
            value = found.output_table if found is not None else output
            if value is not None:
                writer.add(as_table(value, node))
            if found is not None and found.batch_indices:
                if found.force_checkpoint or writer.due():
                    writer.save([index + 1 for index in found.batch_indices])
            elif writer.due():
                writer.save([reader.index for reader in readers])
    return writer.result()


def _process(node: ArrowStreamNode, context: TaskContext, readers: list[CountedReader]) -> Iterable[Any]:
    if isinstance(node, (ArrowBatchNode, PandasBatchNode, PolarsBatchNode)):
        return _by_batch(node, context, readers)
    return node.process(context, readers)


def _by_batch(
    node: ArrowBatchNode | PandasBatchNode | PolarsBatchNode, context: TaskContext, readers: list[CountedReader]
) -> Iterator[StreamOutput]:
    start = readers[0].index if readers else 0
    number = start - 1
    sources: list[Any] = [ConcurrentIter(reader) if node.background_io_thread else reader for reader in readers]
    try:
        for number, batches in enumerate(itertools.zip_longest(*sources), start):
            pairs = zip(batches, readers, strict=True)
            tables = [pa.Table.from_batches([] if b is None else [b], reader.schema) for b, reader in pairs]
            given = frames_of(tables, node.batch_format)
            yield StreamOutput(as_table(node.process(context, given), node), [number] * len(readers))
        if number < 0 and readers:
            yield StreamOutput(_columns_of_nothing(node, context, readers))
    finally:
        for source in sources:
            if isinstance(source, ConcurrentIter):
                source.close()


def _columns_of_nothing(
    node: ArrowBatchNode | PandasBatchNode | PolarsBatchNode, context: TaskContext, readers: list[CountedReader]
) -> pa.Table:
    """An input without a batch: what the function makes of an empty one tells the columns, if it takes one."""
    given = frames_of([pa.Table.from_batches([], reader.schema) for reader in readers], node.batch_format)
    try:
        return as_table(node.process(context, given), node).slice(0, 0)
    except Exception:  # it counts on rows: the columns come from another partition
        return pa.Table.from_batches([], pa.schema([]))


def _reader(node: ArrowStreamNode, source: DataSet, done: int) -> CountedReader:
    """Batches of exactly the node's size, from the first that is not done."""
    reader = source.to_batch_reader(node.streaming_batch_size)
    tables = rebatch(reader, node.streaming_batch_size, reader.schema)
    batches = (table.combine_chunks().to_batches()[0] for table in itertools.islice(tables, done, None))
    return CountedReader(reader.schema, batches, done)


def _stem(context: TaskContext) -> str:
    return f"{context.task_index:06d}.stream"


def _checkpoint_path(context: TaskContext) -> str:
    os.makedirs(context.output_dir, exist_ok=True)
    return os.path.join(context.output_dir, f"{_stem(context)}.checkpoint")


def load_checkpoint(context: TaskContext, inputs: int) -> Checkpoint:
    """Where an earlier attempt stopped; a fresh start when there is none, or its files are gone."""
    path = os.path.join(context.output_dir, f"{_stem(context)}.checkpoint")
    if os.path.exists(path):
        found: Checkpoint = filesystem.load(path)
        if len(found.batches) == inputs and all(os.path.exists(file) for file, _ in found.files):
            return found
    return Checkpoint([], [0] * inputs)
