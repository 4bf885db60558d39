"""The data frame: a lazy plan with the session that runs it.

Transformations make nodes; `compute`, `count`, `take`, `to_…` and writers run them. One rule: a frame never changes;
what it computed once, it and every frame made from it read again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from threefs.smallpond.common import DEFAULT_BATCH_SIZE
from threefs.smallpond.errors import PlanError
from threefs.smallpond.logical.dataset import DataSet, merge_datasets
from threefs.smallpond.logical.functions import BatchFunction, RowFunction
from threefs.smallpond.logical.node import (
    ArrowBatchNode,
    ArrowComputeNode,
    ArrowStreamNode,
    BatchFormat,
    ConsolidateNode,
    Context,
    DataSinkNode,
    EvenlyDistributedPartitionNode,
    HashPartitionNode,
    LimitNode,
    Node,
    PandasBatchNode,
    PolarsBatchNode,
    RangePartitionNode,
    ShuffleNode,
    SqlEngineNode,
    UnionNode,
)
from threefs.smallpond.logical.relational import AGGREGATES, aggregate_list, join_query, order_terms, quoted_list

if TYPE_CHECKING:
    import pandas as pd

_BATCH_NODES: dict[BatchFormat, type[ArrowStreamNode]] = {
    "arrow": ArrowBatchNode,
    "pandas": PandasBatchNode,
    "polars": PolarsBatchNode,
}


class SessionLike(Protocol):
    """What a frame needs of its session."""

    _ctx: Context

    def compute_all(self, dfs: Sequence[DataFrame]) -> None: ...

    def execute(self, nodes: Sequence[Node], fresh: set[int] | None = None) -> list[list[DataSet]]: ...

    def schema_of(self, node: Node) -> pa.Schema: ...

    def explain(self, node: Node, analyze: bool) -> str: ...


class DataFrame:
    """`plan` is the node whose rows these are. Keywords that a method does not name go to the node: cpu_limit,
    gpu_limit, memory_limit, output_name, parquet_*, udfs."""

    def __init__(self, session: SessionLike, plan: Node, recompute: bool = False) -> None:
        self.session = session
        self.plan = plan
        self.need_recompute = recompute
        self._result: list[DataSet] | None = None

    def _next(self, node: Node) -> DataFrame:
        return DataFrame(self.session, node, self.need_recompute)

    def _sql(self, query: str, label: str = "", inputs: Sequence[DataFrame] = (), **kwargs: Any) -> DataFrame:
        node = SqlEngineNode(self.session._ctx, (self.plan, *(frame.plan for frame in inputs)), query, **kwargs)
        node.label = label
        return self._next(node)

    # ---- computing ----

    def is_computed(self) -> bool:
        return self._result is not None

    def compute(self) -> None:
        """Run the plan now; its results are kept for this frame and all frames made from it."""
        self.session.compute_all([self])

    def set_result(self, result: list[DataSet]) -> None:
        self._result = result
        self.need_recompute = False

    def recompute(self) -> DataFrame:
        """Compute everything anew at the next use, whatever results are kept."""
        self._result = None
        self.need_recompute = True
        return self

    def _computed(self) -> list[DataSet]:
        self.compute()
        assert self._result is not None
        return self._result

    # ---- partitions ----

    def repartition(
        self,
        npartitions: int,
        hash_by: str | Sequence[str] | None = None,
        by: str | None = None,
        by_rows: bool = False,
        *,
        range_by: str | None = None,
        **kwargs: Any,
    ) -> DataFrame:
        """Deal rows out anew: files evenly (default), rows evenly (`by_rows`), by hash of columns, `by` a column or
        expression that holds the partition's number, or by sampled ranges of a column (`range_by`)."""
        modes = [
            name
            for name, value in (("hash_by", hash_by), ("by", by), ("by_rows", by_rows), ("range_by", range_by))
            if value
        ]
        if len(modes) > 1:
            raise PlanError(f"{' and '.join(modes)} exclude each other: choose one way to repartition")
        ctx, inputs = self.session._ctx, (self.plan,)
        if by is not None:
            return self._next(ShuffleNode(ctx, inputs, npartitions, by, **kwargs))
        if hash_by is not None:
            columns = [hash_by] if isinstance(hash_by, str) else list(hash_by)
            kwargs.setdefault("drop_partition_column", True)
            return self._next(HashPartitionNode(ctx, inputs, npartitions, columns, **kwargs))
        if range_by is not None:
            return self._next(RangePartitionNode(ctx, inputs, column=range_by, npartitions=npartitions, **kwargs))
        return self._next(EvenlyDistributedPartitionNode(ctx, inputs, npartitions, partition_by_rows=by_rows, **kwargs))

    def random_shuffle(self, **kwargs: Any) -> DataFrame:
        """Every row to a random partition, and to a random place in it."""
        kwargs.setdefault("drop_partition_column", True)
        shuffle_kwargs = dict(kwargs)
        for name in ("drop_partition_column", "dimension"):
            kwargs.pop(name, None)
        node = HashPartitionNode(
            self.session._ctx, (self.plan,), self.plan.num_partitions, random_shuffle=True, **shuffle_kwargs
        )
        return self._next(node)._sql("SELECT * FROM {0} ORDER BY random()", "random order", **kwargs)

    def partial_sort(self, by: str | Sequence[str], **kwargs: Any) -> DataFrame:
        """Sort within each partition; `'b desc'` works. `sort` sorts across partitions."""
        terms = [by] if isinstance(by, str) else list(by)
        return self._sql(f"SELECT * FROM {{0}} ORDER BY {', '.join(terms)}", **kwargs)

    # ---- rows ----

    def map(
        self,
        sql_or_func: str | Callable[[dict[str, Any]], dict[str, Any]],
        *,
        schema: pa.Schema | None = None,
        **kwargs: Any,
    ) -> DataFrame:
        """SQL: the select list, evaluated once a partition (aggregates are per partition). Function: row -> row."""
        if isinstance(sql_or_func, str):
            return self._sql(f"SELECT {sql_or_func} FROM {{0}}", **kwargs)
        return self._rows(RowFunction(sql_or_func, "map", schema), **kwargs)

    def flat_map(
        self,
        sql_or_func: str | Callable[[dict[str, Any]], list[dict[str, Any]]],
        *,
        schema: pa.Schema | None = None,
        **kwargs: Any,
    ) -> DataFrame:
        """SQL with `unnest`, or a function row -> list of rows."""
        if isinstance(sql_or_func, str):
            return self._sql(f"SELECT {sql_or_func} FROM {{0}}", **kwargs)
        return self._rows(RowFunction(sql_or_func, "flat_map", schema), **kwargs)

    def filter(self, sql_or_func: str | Callable[[dict[str, Any]], bool], **kwargs: Any) -> DataFrame:
        """SQL predicate, or a function row -> bool."""
        if isinstance(sql_or_func, str):
            return self._sql(f"SELECT * FROM {{0}} WHERE ({sql_or_func})", **kwargs)
        return self._rows(RowFunction(sql_or_func, "filter", None), **kwargs)

    def _rows(self, function: RowFunction, **kwargs: Any) -> DataFrame:
        node = ArrowComputeNode(self.session._ctx, (self.plan,), process_func=function, **kwargs)
        node.label = f"{function.kind} {function.name}"
        return self._next(node)

    def map_batches(
        self,
        func: Callable[[Any], Any],
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        streaming: bool = False,
        batch_format: BatchFormat = "arrow",
        **kwargs: Any,
    ) -> DataFrame:
        """Arrow table -> Arrow table, `batch_size` rows at a time, across the borders of files; `batch_format` gives
        the function pandas or Polars frames instead. `streaming`: it takes an iterator of tables and yields tables."""
        if streaming and batch_format != "arrow":
            raise PlanError(f"a streaming function takes Arrow tables: batch_format={batch_format!r} is for batches")
        if batch_format not in _BATCH_NODES:
            raise PlanError(f"batch_format {batch_format!r} is none of {', '.join(_BATCH_NODES)}")
        node_type = ArrowStreamNode if streaming else _BATCH_NODES[batch_format]
        function = BatchFunction(func, streaming)
        node = node_type(
            self.session._ctx, (self.plan,), process_func=function, streaming_batch_size=batch_size, **kwargs
        )
        node.label = f"map_batches {function.name}"
        return self._next(node)

    def limit(self, limit: int) -> DataFrame:
        """The first rows in partition order."""
        return self._next(LimitNode(self.session._ctx, self.plan, limit))

    # ---- columns ----

    def select(self, *columns: str, **kwargs: Any) -> DataFrame:
        """Columns by name, or SQL expressions (`"a + b AS c"`)."""
        return self._sql(f"SELECT {', '.join(columns)} FROM {{0}}", **kwargs)

    def with_column(self, name: str, expression: str, **kwargs: Any) -> DataFrame:
        """All columns, and one more (or a replaced one) from an SQL expression."""
        known = self.columns
        quoted = quoted_list([name])
        if name in known:
            return self._sql(f"SELECT * REPLACE (({expression}) AS {quoted}) FROM {{0}}", **kwargs)
        return self._sql(f"SELECT *, ({expression}) AS {quoted} FROM {{0}}", **kwargs)

    def drop(self, *columns: str, **kwargs: Any) -> DataFrame:
        return self._sql(f"SELECT * EXCLUDE ({quoted_list(columns)}) FROM {{0}}", **kwargs)

    def rename(self, columns: dict[str, str], **kwargs: Any) -> DataFrame:
        terms = ", ".join(f"{quoted_list([old])} AS {quoted_list([new])}" for old, new in columns.items())
        return self._sql(f"SELECT * RENAME ({terms}) FROM {{0}}", **kwargs)

    # ---- across partitions ----

    def sort(self, by: str | Sequence[str], npartitions: int | None = None, **kwargs: Any) -> DataFrame:
        """All rows in order: partition after partition, and within each. `'b desc'` works, also in the first place."""
        terms = order_terms([by] if isinstance(by, str) else by)
        count = npartitions or self.plan.num_partitions
        frame = self
        if count > 1 or self.plan.num_partitions > 1:
            first = terms[0]
            frame = self._next(
                RangePartitionNode(
                    self.session._ctx,
                    (self.plan,),
                    column=first.column,
                    npartitions=count,
                    descending=first.descending,
                    nulls=first.nulls,
                )
            )
        return frame._sql(f"SELECT * FROM {{0}} ORDER BY {', '.join(term.sql for term in terms)}", **kwargs)

    def group_by(self, *columns: str) -> GroupedFrame:
        """Groups over all partitions: `df.group_by("k").agg("count(*) AS n", total="sum(v)")`."""
        return GroupedFrame(self, columns)

    def agg(self, *expressions: str, **named: str) -> DataFrame:
        """One row: aggregates over all rows."""
        return GroupedFrame(self, ()).aggregate(expressions, named)

    def distinct(self, *columns: str, npartitions: int | None = None, **kwargs: Any) -> DataFrame:
        """Each combination once, over all partitions; of these columns, or of all."""
        chosen = list(columns) or self.columns
        count = npartitions or self.plan.num_partitions
        query = f"SELECT DISTINCT {quoted_list(chosen)} FROM {{0}}"
        once = self._sql(query, **kwargs)
        return once.repartition(count, hash_by=chosen)._sql(query, **kwargs) if self.plan.num_partitions > 1 else once

    def union(self, *others: DataFrame) -> DataFrame:
        """The rows of all, duplicates included, columns matched by name."""
        frames = [self, *others]
        nodes = [frame.plan for frame in frames]
        if len({node.num_partitions for node in nodes}) > 1:
            nodes = [ConsolidateNode(self.session._ctx, node, []) for node in nodes]
        return self._next(UnionNode(self.session._ctx, nodes))

    def join(
        self,
        other: DataFrame,
        on: str | Sequence[str],
        how: str = "inner",
        *,
        npartitions: int | None = None,
        broadcast: bool = False,
        **kwargs: Any,
    ) -> DataFrame:
        """Join over all partitions by columns of the same name. Both sides are dealt out by the keys, unless the other
        side is `broadcast` to every partition of this one (not for right and full joins)."""
        keys = [on] if isinstance(on, str) else list(on)
        query = join_query(keys, how)
        if broadcast:
            if how in ("right", "full"):
                raise PlanError(f"a {how} join cannot broadcast: rows without a partner would come once a partition")
            side = other._next(ConsolidateNode(self.session._ctx, other.plan, []))
            return self._sql(query, f"{how} join on {', '.join(keys)}, broadcast", [side], **kwargs)
        count = npartitions or max(self.plan.num_partitions, other.plan.num_partitions)
        left, right = (frame.repartition(count, hash_by=keys) if count > 1 else frame for frame in (self, other))
        return left._sql(query, f"{how} join on {', '.join(keys)}", [right], **kwargs)

    # ---- looking at it ----

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns; found without computing where the plan allows it."""
        if self._result:
            return self._result[0].schema()
        return self.session.schema_of(self.plan)

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    @property
    def num_partitions(self) -> int:
        return self.plan.num_partitions

    def explain(self, analyze: bool = False) -> str:
        """The plan as written, as optimised and as it runs; with `analyze` it is run and says what each step took."""
        return self.session.explain(self.plan, analyze)

    def show(self, limit: int = 20) -> None:
        """Print the first rows as a table."""
        from threefs.smallpond.report.table import text_table

        print(text_table(self._head(limit), self.num_partitions))

    def __repr__(self) -> str:
        state = "computed" if self.is_computed() else "lazy"
        return f"<DataFrame {self.plan}, {self.num_partitions} partitions, {state}>"

    def _repr_html_(self) -> str:
        """A computed frame as a table of its first rows; a lazy one as its plan, which runs nothing."""
        from threefs.smallpond.report.table import html_plan, html_table

        if self.is_computed():
            return html_table(self._head(10), self.num_partitions)
        return html_plan(repr(self), self.explain())

    def _head(self, limit: int) -> pa.Table:
        if self.is_computed():
            return _first_rows(self._computed(), limit)
        return self.limit(limit).to_arrow()

    # ---- results ----

    def count(self) -> int:
        return sum(dataset.num_rows for dataset in self._computed())

    def take(self, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._head(limit).to_pylist()
        return found

    def take_all(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return found

    def to_arrow(self) -> pa.Table:
        """All rows in partition order, in this process."""
        datasets = self._computed()
        return merge_datasets(datasets).to_arrow_table() if datasets else pa.table({})

    def to_pandas(self) -> pd.DataFrame:
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_polars(self) -> Any:
        import polars

        return polars.from_arrow(self.to_arrow())

    def iter_batches(self, batch_size: int = DEFAULT_BATCH_SIZE) -> Iterator[pa.RecordBatch]:
        """The rows in partition order, one batch in memory at a time."""
        for dataset in self._computed():
            yield from dataset.to_batch_reader(batch_size)

    # ---- writers ----

    def write_parquet(
        self, path: str, mode: str = "append", partition_by: str | Sequence[str] = (), **options: Any
    ) -> None:
        """Write one file a partition. `mode`: append (default) adds files to those that are there, overwrite replaces
        them, error refuses. `partition_by`: folders by key (`key=value/`). Readers see all of it or nothing."""
        self.write_parquet_lazy(path, mode, partition_by, **options).compute()

    def write_parquet_lazy(
        self, path: str, mode: str = "append", partition_by: str | Sequence[str] = (), **options: Any
    ) -> DataFrame:
        """The same, when the frame that it returns is computed: `sp.wait(df1.write_parquet_lazy(…), …)`."""
        return self._sink(path, "parquet", mode, partition_by, options)

    def write_csv(
        self, path: str, mode: str = "append", partition_by: str | Sequence[str] = (), **options: Any
    ) -> None:
        """One CSV file a partition; options are DuckDB's: header, delim, quote, nullstr …"""
        self._sink(path, "csv", mode, partition_by, options).compute()

    def write_json(
        self, path: str, mode: str = "append", partition_by: str | Sequence[str] = (), **options: Any
    ) -> None:
        """One file of newline-delimited JSON a partition."""
        self._sink(path, "json", mode, partition_by, options).compute()

    def _sink(
        self, path: str, format: str, mode: str, partition_by: str | Sequence[str], options: dict[str, Any]
    ) -> DataFrame:
        from threefs.smallpond.io.filesystem import absolute

        keys = (partition_by,) if isinstance(partition_by, str) else tuple(partition_by)
        node = DataSinkNode(
            self.session._ctx,
            (self.plan,),
            absolute(path),
            type="link_or_copy",
            mode=mode,  # type: ignore[arg-type]
            format=format,  # type: ignore[arg-type]
            partition_by=keys,
            options=options,
        )
        return self._next(node)


class GroupedFrame:
    """What `group_by` gives: `agg`, or one of the short forms."""

    def __init__(self, frame: DataFrame, columns: Sequence[str]) -> None:
        self._frame = frame
        self._columns = list(columns)

    def agg(self, *expressions: str, npartitions: int | None = None, **named: str) -> DataFrame:
        """Aggregates as SQL (`"sum(v) AS total"`), or by name (`total="sum(v)"`)."""
        return self.aggregate(expressions, named, npartitions)

    def aggregate(
        self, expressions: Sequence[str], named: Mapping[str, str], npartitions: int | None = None
    ) -> DataFrame:
        chosen = aggregate_list(expressions, named)
        frame = self._frame
        parts = frame.plan.num_partitions
        if not self._columns:
            if parts > 1:
                frame = frame._next(ConsolidateNode(frame.session._ctx, frame.plan, []))
            return frame._sql(f"SELECT {chosen} FROM {{0}}")
        keys = quoted_list(self._columns)
        count = npartitions or parts
        if count > 1:
            frame = frame.repartition(count, hash_by=self._columns)
        return frame._sql(f"SELECT {keys}, {chosen} FROM {{0}} GROUP BY {keys}")

    def count(self) -> DataFrame:
        return self.agg("count(*) AS count")

    def __getattr__(self, name: str) -> Callable[..., DataFrame]:
        """`sum`, `min`, `max`, `avg`, `median` … of columns, each under the column's name."""
        if name not in AGGREGATES:
            raise AttributeError(f"no aggregate {name!r}: choose from {', '.join(AGGREGATES)}, or write it with agg()")
        return lambda *columns: self.agg(*(f"{name}({quoted_list([c])}) AS {quoted_list([c])}" for c in columns))


def _first_rows(datasets: Sequence[DataSet], limit: int) -> pa.Table:
    tables: list[pa.Table] = []
    left = limit
    for dataset in datasets:
        if left <= 0 and tables:
            break
        for batch in dataset.to_batch_reader():
            tables.append(pa.Table.from_batches([batch.slice(0, left)]))
            left -= tables[-1].num_rows
            if left <= 0:
                break
    return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})


def __getattr__(name: str) -> Any:
    """`Session` where programs written for smallpond import it from; it lives in `session`, which imports this."""
    if name == "Session":
        return importlib.import_module("threefs.smallpond.session").Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
