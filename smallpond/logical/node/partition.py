"""Nodes that deal rows out to partitions.

Not nested (the default), the partitions of the input are replaced by `npartitions` along `dimension`; nested, each of
them is divided further along a new dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa

from threefs.smallpond.common import DATA_PARTITION_COLUMN_NAME, DEFAULT_ROW_GROUP_SIZE, PARTITIONS_MAX
from threefs.smallpond.errors import PlanError
from threefs.smallpond.io.arrow import ParquetOptions
from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node.base import Context, Node
from threefs.smallpond.logical.node.sql import SqlEngineNode
from threefs.smallpond.logical.node.structure import ConsolidateNode

EngineType = Literal["duckdb", "arrow", "polars"]
ENGINES = ("duckdb", "arrow", "polars")


class PartitionNode(Node):
    """Base of all partition nodes."""

    max_num_producer_tasks: ClassVar[int] = 100
    max_card_of_producers_x_consumers: ClassVar[int] = PARTITIONS_MAX

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        npartitions: int,
        dimension: str | None = None,
        nested: bool = False,
        output_name: str | None = None,
        output_path: str | None = None,
        cpu_limit: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        if isinstance(npartitions, bool) or not isinstance(npartitions, int) or npartitions < 1:
            raise PlanError(f"{npartitions!r} partitions: give a whole number, at least 1")
        if nested and dimension is None:
            raise PlanError("a nested partition needs a dimension of its own: pass dimension='name'")
        super().__init__(ctx, input_deps, output_name, output_path, cpu_limit, 0, memory_limit)
        self.npartitions = npartitions
        self.dimension = dimension or DATA_PARTITION_COLUMN_NAME
        self.nested = nested
        if self.num_partitions > PARTITIONS_MAX:
            raise PlanError(f"{self.num_partitions} partitions over all dimensions; at most {PARTITIONS_MAX} work")

    @property
    def num_partitions(self) -> int:
        outer = max((dep.num_partitions for dep in self.input_deps), default=1) if self.nested else 1
        return self.npartitions * outer

    def details(self) -> str:
        nested = ", nested" if self.nested else ""
        along = f" along {self.dimension}" if self.dimension != DATA_PARTITION_COLUMN_NAME else ""
        return f"into {self.npartitions}{along}{nested}"


class RepeatPartitionNode(PartitionNode):
    """The same rows `npartitions` times, along a new dimension."""

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        npartitions: int,
        dimension: str,
        cpu_limit: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        super().__init__(ctx, input_deps, npartitions, dimension, True, None, None, cpu_limit, memory_limit)


class UserDefinedPartitionNode(PartitionNode):
    """Override `partition`: it returns one data set for each of the `npartitions`."""

    runs_user_code = True

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        npartitions: int,
        dimension: str | None = None,
        nested: bool = False,
        cpu_limit: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        super().__init__(ctx, input_deps, npartitions, dimension, nested, None, None, cpu_limit, memory_limit)

    def partition(self, runtime_ctx: Any, dataset: DataSet) -> list[DataSet]:
        raise PlanError(f"{self.name} (made at {self.location}) does not say how to partition: override partition()")


class UserPartitionedDataSourceNode(UserDefinedPartitionNode):
    """Partitions given as they are: a list of data sets."""

    max_num_producer_tasks = 1
    runs_user_code = False

    def __init__(self, ctx: Context, partitioned_datasets: Sequence[DataSet], dimension: str | None = None) -> None:
        super().__init__(ctx, (), len(partitioned_datasets), dimension)
        self.partitioned_datasets = list(partitioned_datasets)


class EvenlyDistributedPartitionNode(PartitionNode):
    """Files (or with `partition_by_rows` row ranges) dealt out in contiguous runs; no row is moved."""

    max_num_producer_tasks = 1

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        npartitions: int,
        dimension: str | None = None,
        nested: bool = False,
        *,
        partition_by_rows: bool = False,
        random_shuffle: bool = False,
        output_name: str | None = None,
        output_path: str | None = None,
        cpu_limit: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        super().__init__(
            ctx, input_deps, npartitions, dimension, nested, output_name, output_path, cpu_limit, memory_limit
        )
        self.partition_by_rows = partition_by_rows
        self.random_shuffle = random_shuffle

    def details(self) -> str:
        what = "rows" if self.partition_by_rows else "files"
        return f"{what} {super().details()}" + (", shuffled" if self.random_shuffle else "")


class LoadPartitionedDataSetNode(PartitionNode):
    """Re-attach the partitions of files that an earlier job wrote."""

    max_num_producer_tasks = 10

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        npartitions: int,
        dimension: str | None = None,
        nested: bool = False,
        data_partition_column: str | None = None,
        hive_partitioning: bool = False,
        cpu_limit: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        self.data_partition_column = data_partition_column or DATA_PARTITION_COLUMN_NAME
        self.hive_partitioning = hive_partitioning
        super().__init__(
            ctx,
            input_deps,
            npartitions,
            dimension or self.data_partition_column,
            nested,
            None,
            None,
            cpu_limit,
            memory_limit,
        )


def DataSetPartitionNode(
    ctx: Context,
    input_deps: Sequence[Node],
    npartitions: int,
    *,
    partition_by_rows: bool = False,
    random_shuffle: bool = False,
    data_partition_column: str | None = None,
) -> Node:
    """Even partitions, or with `data_partition_column` those that the files already have."""
    if data_partition_column is not None:
        if partition_by_rows or random_shuffle:
            raise PlanError("partition_by_rows and random_shuffle do not go with data_partition_column")
        return LoadPartitionedDataSetNode(ctx, input_deps, npartitions, data_partition_column=data_partition_column)
    node = EvenlyDistributedPartitionNode(
        ctx, input_deps, npartitions, partition_by_rows=partition_by_rows, random_shuffle=random_shuffle
    )
    return ConsolidateNode(ctx, node, []) if npartitions == 1 else node


class HashPartitionNode(PartitionNode):
    """Every row to the partition that its hash columns decide.

    `shuffle_only`: `data_partition_column` (a column, or in SQL terms any integer expression) already holds the
    partition; `random_shuffle`: a random one. Unless `drop_partition_column`, rows carry their partition number in
    `data_partition_column`. All engines place rows alike: the hash is that of `shuffle`, and an engine is only what
    reads the input. Results are shuffle files; with `hive_partitioning`, `use_parquet_writer` or an `output_name` they
    are parquet files that `LoadPartitionedDataSetNode` finds again.
    """

    default_cpu_limit: ClassVar[int] = 1
    default_memory_limit: ClassVar[int | None] = None
    default_data_partition_column: ClassVar[str] = DATA_PARTITION_COLUMN_NAME
    default_engine_type: ClassVar[EngineType] = "duckdb"
    default_row_group_size: ClassVar[int] = DEFAULT_ROW_GROUP_SIZE
    max_num_producer_tasks = 1000

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        npartitions: int,
        hash_columns: Sequence[str] | None = None,
        data_partition_column: str | None = None,
        *,
        dimension: str | None = None,
        nested: bool = False,
        engine_type: EngineType | None = None,
        random_shuffle: bool = False,
        shuffle_only: bool = False,
        drop_partition_column: bool = False,
        use_parquet_writer: bool = False,
        hive_partitioning: bool = False,
        parquet_row_group_size: int | None = None,
        parquet_dictionary_encoding: bool = False,
        parquet_compression: str = "ZSTD",
        parquet_compression_level: int | None = 1,
        shuffle_compression: Literal["none", "lz4", "zstd"] = "none",
        output_name: str | None = None,
        output_path: str | None = None,
        cpu_limit: int | None = None,
        memory_limit: int | None = None,
    ) -> None:
        if random_shuffle and shuffle_only:
            raise PlanError("random_shuffle and shuffle_only exclude each other")
        if shuffle_only and data_partition_column is None:
            raise PlanError("shuffle_only needs data_partition_column: the column with the partition numbers")
        if not (random_shuffle or shuffle_only or hash_columns):
            raise PlanError("a hash partition needs hash_columns")
        if engine_type is not None and engine_type not in ENGINES:
            raise PlanError(f"engine_type {engine_type!r} is none of {', '.join(ENGINES)}")
        column = data_partition_column or self.default_data_partition_column
        is_name = column.isidentifier()
        super().__init__(
            ctx,
            input_deps,
            npartitions,
            dimension or (column if is_name else None) or DATA_PARTITION_COLUMN_NAME,
            nested,
            output_name,
            output_path,
            cpu_limit or self.default_cpu_limit,
            memory_limit or self.default_memory_limit,
        )
        self.hash_columns = list(hash_columns or [])
        self.data_partition_column = column
        self.engine_type: EngineType = engine_type or self.default_engine_type
        self.random_shuffle = random_shuffle
        self.shuffle_only = shuffle_only
        self.drop_partition_column = drop_partition_column
        self.use_parquet_writer = use_parquet_writer
        self.hive_partitioning = hive_partitioning
        self.shuffle_compression = shuffle_compression
        self.columns: list[str] | None = None  # set by the optimiser: only these are shuffled
        self.source: SqlEngineNode | None = None  # set by the optimiser: the rows of this query are dealt out
        self.parquet_options = ParquetOptions(
            parquet_row_group_size or self.default_row_group_size,
            parquet_dictionary_encoding,
            parquet_compression,
            parquet_compression_level,
        )

    @property
    def keeps_parquet(self) -> bool:
        return self.use_parquet_writer or self.hive_partitioning or self.output_name is not None

    def details(self) -> str:
        how = "at random" if self.random_shuffle else f"by hash of {', '.join(self.hash_columns)}"
        if self.shuffle_only:
            how = f"by {self.data_partition_column}"
        narrowed = f", columns {', '.join(self.columns)}" if self.columns is not None else ""
        return f"{how} {super().details()}{narrowed}"


class ShuffleNode(HashPartitionNode):
    """Rows to the partition whose number `data_partition_column` holds."""

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        npartitions: int,
        data_partition_column: str | None = None,
        *,
        dimension: str | None = None,
        nested: bool = False,
        engine_type: EngineType | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            ctx,
            input_deps,
            npartitions,
            None,
            data_partition_column or self.default_data_partition_column,
            dimension=dimension,
            nested=nested,
            engine_type=engine_type,
            shuffle_only=True,
            **kwargs,
        )


class RangePartitionNode(PartitionNode):
    """Every row to the range that its key falls into: n split points make n + 1 partitions.

    With `split_points` None they are sampled from the input, so that `npartitions` come out even. The key is `column`,
    or the first column of the input. Partitions are in key order (reversed if `descending`).
    """

    max_num_producer_tasks = 1000

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        split_points: Sequence[Any] | None = None,
        dimension: str | None = None,
        nested: bool = False,
        output_name: str | None = None,
        output_path: str | None = None,
        cpu_limit: int = 1,
        memory_limit: int | None = None,
        *,
        column: str | None = None,
        npartitions: int | None = None,
        descending: bool = False,
        nulls: Literal["first", "last"] = "last",
    ) -> None:
        if (split_points is None) == (npartitions is None):
            raise PlanError("give either split_points or npartitions")
        if split_points is not None:
            points = pa.array(split_points)
            if points.null_count or points.to_pylist() != sorted(points.to_pylist()):
                raise PlanError(f"split points must be ascending and not null: {list(split_points)[:10]}")
        count = npartitions if split_points is None else len(split_points) + 1
        assert count is not None
        super().__init__(ctx, input_deps, count, dimension, nested, output_name, output_path, cpu_limit, memory_limit)
        self.split_points = list(split_points) if split_points is not None else None
        self.column = column
        self.descending = descending
        self.nulls: Literal["first", "last"] = nulls
        self.source: SqlEngineNode | None = None  # set by the optimiser: the rows of this query are dealt out

    def details(self) -> str:
        how = "sampled" if self.split_points is None else "given"
        return f"by {how} ranges of {self.column or 'the first column'} {super().details()}"
