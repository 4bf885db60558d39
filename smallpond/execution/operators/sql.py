"""SQL, once a task, in a DuckDB of the task's own that spills into the task's folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from threefs.smallpond.common import DEFAULT_BATCH_SIZE, INLINE_BYTES_MAX, MB, TOPLEVEL_DIMENSION
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.errors import QueryError
from threefs.smallpond.execution.operators.output import Result, keep
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.logical import sql_text
from threefs.smallpond.logical.dataset import ArrowTableDataSet, DataSet, ParquetDataSet
from threefs.smallpond.logical.node import LimitNode, SqlEngineNode

INPUT = "__input_"


def run(node: SqlEngineNode, role: str, context: TaskContext, inputs: Sequence[DataSet | None]) -> Result:
    if isinstance(node, LimitNode) and not inputs:
        raise QueryError("nothing to limit")
    if isinstance(node, LimitNode) and inputs[0] is not None and inputs[0].has_no_columns:
        return inputs[0], 0
    present = [_present(item, node) for item in inputs]
    if node.batched_processing:
        return _run_batched(node, context, present[0])
    with relation(node, context, present) as found, errors(node, context):
        reader = found.to_arrow_reader(DEFAULT_BATCH_SIZE)
        return keep(reader, reader.schema, context, node.parquet_options)


def _present(item: DataSet | None, node: SqlEngineNode) -> DataSet:
    if item is None:
        raise QueryError(f"{node} reads an input without any partition")
    if item.has_no_columns:
        raise QueryError(
            f"the query of {node.name} made at {node.location} reads the result of a function that was given no row in "
            "any partition, so that nobody knows its columns: say them, with schema=… of map and flat_map"
        )
    return item


@contextmanager
def relation(
    node: SqlEngineNode, context: TaskContext, inputs: Sequence[DataSet], batch_index: int = 0
) -> Iterator[duckdb.DuckDBPyRelation]:
    """The rows of the node's last query, not yet computed; the other queries have run."""
    with session(node, context) as connection, views(connection, node, inputs), _functions(connection, node):
        queries = [
            sql_text.render(
                query, [f"{INPUT}{i}" for i in range(len(inputs))], _names(node, context, batch_index, index)
            )
            for index, query in enumerate(node.sql_queries)
        ]
        with errors(node, context, queries[-1]):
            for query in queries[:-1]:
                engine.do(connection, query)
            found: duckdb.DuckDBPyRelation | None = connection.sql(queries[-1])
            # A statement without rows leaves a row that says so.
            yield connection.sql("SELECT true AS done") if found is None else found


def session(node: SqlEngineNode, context: TaskContext) -> engine.SessionManager:
    return engine.session(
        engine.EngineSettings(
            threads=max(1, int(context.cpu_limit * node.cpu_overcommit_ratio)),
            memory_bytes=int(context.memory_limit * node.memory_overcommit_ratio),
            temp_directory=spill_directory(context),
        ),
        seed=(context.seed % 1_000_003) / 1_000_003 if any("random" in q.lower() for q in node.sql_queries) else None,
    )


def spill_directory(context: TaskContext) -> str:
    """One folder a thread of a process: DuckDB does not let a used one be changed. Gone with the job's temp folder."""
    return os.path.join(context.temp_root, f"spill.{os.getpid()}.{threading.get_ident():x}")


@contextmanager
def views(connection: engine.Connection, node: SqlEngineNode, inputs: Sequence[DataSet]) -> Iterator[None]:
    """Inputs by number, and by name where they have one."""
    named = [*((f"{INPUT}{i}", item) for i, item in enumerate(inputs)), *zip(node.input_names, inputs, strict=False)]
    made: list[tuple[str, DataSet]] = []
    try:
        for name, item in named:
            if name:
                item.create_view(connection, name)
                made.append((name, item))
        yield
    finally:
        for name, item in reversed(made):
            if not _is_tiny(item):  # registering costs as much as dropping: the next task replaces it anyway
                item.drop_view(connection, name)


def _is_tiny(item: DataSet) -> bool:
    return isinstance(item, ArrowTableDataSet) and item.table.nbytes <= INLINE_BYTES_MAX


@contextmanager
def _functions(connection: engine.Connection, node: SqlEngineNode) -> Iterator[None]:
    if not node.udfs:
        yield
        return
    with engine.errors_of("", f"binding the functions of {node}"):
        unbind = engine.bind_functions(connection, list(node.udfs))
    try:
        yield
    finally:
        unbind()


def _names(node: SqlEngineNode, context: TaskContext, batch_index: int, query_index: int) -> dict[str, str]:
    names = {name: f"{INPUT}{index}" for index, name in enumerate(node.input_names) if name}
    names |= {
        "batch_index": str(batch_index),
        "query_index": str(query_index),
        "cpu_limit": str(context.cpu_limit),
        "memory_limit": str(context.memory_limit),
        "rand_seed": str(context.seed),
        "output_filename": context.file_prefix,
    }
    return names | {
        info.dimension: str(info.index) for info in context.partition if info.dimension != TOPLEVEL_DIMENSION
    }


@contextmanager
def errors(node: SqlEngineNode, context: TaskContext, query: str = "") -> Iterator[None]:
    """An engine's error with the step, the line of the program and the query."""
    text = query or node.sql_queries[-1]
    with engine.errors_of(text, f"the query of {node.name} made at {node.location}"):
        try:
            yield
        except (pa.ArrowException, OSError) as exc:  # what arises while rows are fetched comes through Arrow's reader
            if isinstance(exc, pa.ArrowMemoryError) or getattr(exc, "errno", None):
                raise
            if "Out of Memory" in str(exc):
                raise MemoryError(str(exc)) from exc
            raise QueryError(
                f"the query of {node.name} made at {node.location} failed: {exc}\n  in: {engine.shorten(text)}"
            ) from exc


def _run_batched(node: SqlEngineNode, context: TaskContext, source: DataSet) -> Result:
    """The query over slices of the input, so that memory bounds the slice and not the input."""
    slice_bytes = max(context.memory_limit // 2, MB)
    slices = source.partition_by_size(slice_bytes) if isinstance(source, ParquetDataSet) else [source]
    schema: pa.Schema | None = None
    tables: list[pa.Table] = []
    for index, part in enumerate(slices):
        with relation(node, context, [part], index) as found, errors(node, context):
            table = found.to_arrow_table()
        schema = schema or table.schema
        tables.append(table)
    if len(tables) == 1 and tables[0].num_rows == 0:
        return ArrowTableDataSet(tables[0]), 0
    assert schema is not None
    batches = (batch for table in tables for batch in table.cast(schema).to_batches())
    return keep(batches, schema, context, node.parquet_options)
