"""Dealing rows out: what the producers of partition nodes do.

Hash and range partitions become one shuffle file a producer (`shuffle`); even partitions are only descriptors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from threefs.common.errors import UserError
from threefs.smallpond.common import DEFAULT_BATCH_SIZE
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.errors import PlanError, QueryError
from threefs.smallpond.execution.operators import sql
from threefs.smallpond.execution.operators.compute import user_code
from threefs.smallpond.execution.operators.output import Result, keep, parquet_file
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.io.arrow import ParquetOptions, write_parquet
from threefs.smallpond.logical.dataset import DataSet, ParquetDataSet, PartitionedDataSet
from threefs.smallpond.logical.dataset.partitioned import ShuffleParts
from threefs.smallpond.logical.node import (
    EvenlyDistributedPartitionNode,
    HashPartitionNode,
    LoadPartitionedDataSetNode,
    PartitionNode,
    RangePartitionNode,
    UserDefinedPartitionNode,
)
from threefs.smallpond.logical.partition import PartitionInfo, extend
from threefs.smallpond.shuffle import (
    GivenPartitioner,
    HashPartitioner,
    Partitioner,
    RandomPartitioner,
    RangePartitioner,
    write_shuffle,
)

SAMPLES = 4096  # a producer; 8,192 ranges from two producers still come out within some per cent
KEY = "__key__"


def run(node: PartitionNode, role: str, context: TaskContext, inputs: Sequence[DataSet | None]) -> Result:
    source = inputs[0] if inputs else None
    if source is None:
        raise PlanError(f"{node} (made at {node.location}) has no input to deal out")
    if isinstance(node, EvenlyDistributedPartitionNode):
        return PartitionedDataSet(_evenly(node, source)), None
    if isinstance(node, LoadPartitionedDataSetNode):
        return PartitionedDataSet(_load(node, source)), None
    if isinstance(node, UserDefinedPartitionNode):
        return PartitionedDataSet(_user_defined(node, context, source)), None
    if isinstance(node, RangePartitionNode):
        return _by_range(node, role, context, source, inputs)
    assert isinstance(node, HashPartitionNode), node
    return _by_hash(node, context, source)


def _evenly(node: EvenlyDistributedPartitionNode, source: DataSet) -> list[DataSet]:
    if node.partition_by_rows:
        return source.partition_by_rows(node.npartitions, node.random_shuffle)
    return source.partition_by_files(node.npartitions, node.random_shuffle)


def _load(node: LoadPartitionedDataSetNode, source: DataSet) -> list[DataSet]:
    if not isinstance(source, ParquetDataSet):
        raise PlanError(f"{node} (made at {node.location}) re-attaches parquet files, not {source}")
    return source.load_partitioned_datasets(node.npartitions, node.data_partition_column, node.hive_partitioning)


def _user_defined(node: UserDefinedPartitionNode, context: TaskContext, source: DataSet) -> list[DataSet]:
    with user_code(node, context):
        found = list(node.partition(context, source))
    if len(found) != node.npartitions:
        raise PlanError(
            f"{node} (made at {node.location}) returned {len(found)} data sets for {node.npartitions} partitions"
        )
    return found


# ---- shuffles ----


def _by_hash(node: HashPartitionNode, context: TaskContext, source: DataSet) -> Result:
    columns: list[str] = []
    drop: list[str] = []
    added: dict[str, str] = {}  # columns that only decide the partition: name -> expression
    by: Partitioner
    names = source.schema().names if node.source is None else None
    if node.random_shuffle:
        by = RandomPartitioner(node.npartitions, context.seed)
    elif node.shuffle_only:
        key = _column_or_expression(node.data_partition_column, names, 0, added)
        by = GivenPartitioner(key, node.npartitions)
    else:
        columns = [_column_or_expression(column, names, i, added) for i, column in enumerate(node.hash_columns)]
        by = HashPartitioner(columns, node.npartitions)
        columns = [name for name in columns if name not in added]
    if node.columns is not None:
        keys = columns or ([node.data_partition_column] if node.shuffle_only else [])
        drop += [name for name in dict.fromkeys(keys) if name not in node.columns and name not in added]
    drop += list(added)
    partition_column = None if node.drop_partition_column or node.shuffle_only else node.data_partition_column
    with _rows(node, context, source, added) as reader:
        return _shuffle(node, context, reader, by, drop, partition_column)


def _column_or_expression(text: str, names: list[str] | None, index: int, added: dict[str, str]) -> str:
    """A column of the input by name; anything else is SQL, computed into a column of its own."""
    if (names is not None and text in names) or (names is None and text.isidentifier()):
        return text
    name = f"{KEY}{index}"
    added[name] = text
    return name


@contextmanager
def _rows(
    node: HashPartitionNode | RangePartitionNode, context: TaskContext, source: DataSet, added: dict[str, str]
) -> Iterator[pa.RecordBatchReader]:
    """The rows to deal out: the source's, or those of the query that was fused into the node."""
    columns: list[str] | None = getattr(node, "columns", None)
    if columns is not None and isinstance(node, HashPartitionNode):
        keys = [node.data_partition_column] if node.shuffle_only else node.hash_columns
        columns = list(dict.fromkeys([*columns, *(key for key in keys if key not in added.values())]))
    if node.source is None and not added and getattr(node, "engine_type", "arrow") == "arrow":
        narrowed = source.select_columns(columns) if columns is not None else source
        yield narrowed.to_batch_reader(DEFAULT_BATCH_SIZE)
        return
    shown = ", ".join(map(engine.quote_name, columns)) if columns is not None else "*"
    extra = "".join(f", ({text}) AS {engine.quote_name(name)}" for name, text in added.items())
    with ExitStack() as stack:
        if node.source is not None:
            inner = stack.enter_context(sql.relation(node.source, context, [source]))
            found = inner.project(f"{shown}{extra}") if columns is not None or extra else inner
        else:
            settings = engine.EngineSettings(
                context.cpu_limit, int(context.memory_limit * 0.4), sql.spill_directory(context), preserve_order=True
            )
            connection = stack.enter_context(engine.session(settings))
            source.create_view(connection, "__rows")
            stack.callback(source.drop_view, connection, "__rows")
            with engine.errors_of(f"SELECT {shown}{extra}", f"partitioning of {node} made at {node.location}"):
                inner = connection.sql(f"SELECT {shown}{extra} FROM __rows")
            found = inner
        yield found.to_arrow_reader(DEFAULT_BATCH_SIZE)


def _shuffle(
    node: HashPartitionNode | RangePartitionNode,
    context: TaskContext,
    reader: pa.RecordBatchReader,
    by: Partitioner,
    drop: Sequence[str],
    partition_column: str | None,
) -> Result:
    try:
        file = write_shuffle(
            reader,
            context.output_file(".shuffle"),
            by,
            compression=getattr(node, "shuffle_compression", "none"),
            memory_bytes=max(1 << 24, int(context.memory_limit * 0.4)),
            threads=context.cpu_limit,
            drop=drop,
        )
    except UserError as exc:
        hint = f"; {exc.hint}" if exc.hint else ""
        raise PlanError(f"{node} (made at {node.location}): {exc}{hint}") from exc
    except pa.ArrowException as exc:
        if isinstance(exc, pa.ArrowMemoryError):
            raise
        raise QueryError(f"{node} (made at {node.location}) could not read its input: {exc}") from exc
    if isinstance(node, HashPartitionNode) and node.keeps_parquet:
        return _as_parquet(node, context, ShuffleParts(file, partition_column))
    return ShuffleParts(file, partition_column), file.rows


def _as_parquet(node: HashPartitionNode, context: TaskContext, parts: ShuffleParts) -> Result:
    """Parquet files by partition instead of the shuffle file, for those who look at them afterwards."""
    datasets: list[DataSet] = []
    for index in range(node.npartitions):
        info = PartitionInfo(index, node.npartitions, node.dimension)
        inner = context.with_extra_partition(extend(context.partition, info))
        folder = f"{node.data_partition_column}={index}" if node.hive_partitioning else f"part-{index:05d}"
        path = os.path.join(context.output_dir, folder, f"{context.file_prefix}.parquet")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        reader = parts.part(index).to_batch_reader()
        metadata = {**inner.metadata(), f"SMALLPOND:{node.data_partition_column}": str(index)}
        rows = write_parquet(reader, reader.schema, path, node.parquet_options, metadata)
        datasets.append(parquet_file(path, rows))
    os.unlink(parts.file.path)
    return PartitionedDataSet(datasets), parts.file.rows


# ---- ranges ----


def _by_range(
    node: RangePartitionNode, role: str, context: TaskContext, source: DataSet, inputs: Sequence[DataSet | None]
) -> Result:
    schema = source.schema() if node.source is None else None
    names = schema.names if schema is not None else None
    added: dict[str, str] = {}
    column = node.column if node.column is not None else (names[0] if names else "")
    key = _column_or_expression(column, names, 0, added)
    with _rows(node, context, source, added) as reader:
        if role == "sample":
            return _sample(reader, key, context)
        if node.split_points is not None:
            points = pa.array(node.split_points)
        else:
            sampled = inputs[1]
            assert sampled is not None, "ranges are sampled first"
            points = split_points(sampled.to_arrow_table(), node.npartitions)
        by = _PaddedRange(RangePartitioner(key, points, node.descending, node.nulls), node.npartitions)
        return _shuffle(node, context, reader, by, list(added), None)


class _PaddedRange:
    """A range partitioner whose split points may be fewer than wanted (few distinct keys): the last ones stay empty."""

    def __init__(self, inner: RangePartitioner, partitions: int) -> None:
        self._inner = inner
        self.partitions = partitions

    def owners(self, batch: pa.RecordBatch, number: int) -> Any:
        found = self._inner.owners(batch, number)
        assert len(found) == 0 or int(found.max()) < self.partitions
        return found


def _sample(reader: pa.RecordBatchReader, key: str, context: TaskContext) -> Result:
    """Up to SAMPLES keys, each with the number of rows that it stands for."""
    random = np.random.default_rng(context.seed)
    kept: list[pa.Array] = []
    rows = held = 0
    rate = 1.0
    for batch in reader:
        column = batch.column(batch.schema.get_field_index(key))
        rows += len(column)
        chosen = column.filter(pa.array(random.random(len(column)) < rate))
        kept.append(chosen)
        held += len(chosen)
        while held > 4 * SAMPLES:  # thin out what is there, and take fewer from now on
            rate /= 2
            kept = [item.filter(pa.array(random.random(len(item)) < 0.5)) for item in kept]
            held = sum(map(len, kept))
    kind = reader.schema.field(key).type
    keys = pa.chunked_array(kept, type=kind).drop_null()
    weight = rows / max(1, held)
    table = pa.table({"key": keys, "weight": pa.array(np.full(len(keys), weight))})
    return keep(table.to_batches(), table.schema, context, ParquetOptions())


def split_points(samples: pa.Table, partitions: int) -> pa.Array:
    """Points that give every partition about the same weight; a key that outweighs a partition has one to itself."""
    import pyarrow.compute as pc

    order = pc.sort_indices(samples["key"])
    keys = samples["key"].take(order).combine_chunks()
    if isinstance(keys, pa.ChunkedArray):
        keys = pa.concat_arrays(keys.chunks) if keys.num_chunks else pa.array([], keys.type)
    weights = np.cumsum(samples["weight"].take(order).to_numpy())
    if not len(keys):
        return keys
    wanted = weights[-1] * np.arange(1, partitions) / partitions
    chosen = np.minimum(np.searchsorted(weights, wanted), len(keys) - 1)
    return keys.take(pa.array(np.unique(chosen))).unique()
