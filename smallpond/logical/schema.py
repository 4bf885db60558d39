"""Schemas without computing: what DuckDB's binder says of queries over empty tables of the inputs' types."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.io.plain import empty_table
from threefs.smallpond.logical import sql_text
from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node import (
    ConsolidateNode,
    DataSourceNode,
    HashPartitionNode,
    Node,
    PartitionNode,
    ProjectionNode,
    RangePartitionNode,
    SqlEngineNode,
    UnionNode,
    UserPartitionedDataSourceNode,
)


class SchemaCache:
    """Schemas of the nodes of one plan, each inferred once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Node, pa.Schema | None]] = {}

    def of(self, node: Node) -> pa.Schema | None:
        """The schema of a node's rows; None where only running it can tell (functions of the user). QueryError when
        a query does not fit its inputs."""
        found = self._known.get(id(node))
        if found is None:
            found = self._known[id(node)] = (node, _infer(node, [self.of(dep) for dep in node.input_deps]))
        return found[1]


def infer_schema(node: Node) -> pa.Schema | None:
    return SchemaCache().of(node)


def _infer(node: Node, inputs: list[pa.Schema | None]) -> pa.Schema | None:
    if isinstance(node, DataSourceNode):
        return _of_dataset(node.dataset)
    if isinstance(node, UserPartitionedDataSourceNode):
        return _of_dataset(node.partitioned_datasets[0])
    if isinstance(node, SqlEngineNode):
        return _of_query(node, inputs)
    if isinstance(node, ProjectionNode):
        if inputs[0] is None or node.generated_columns or node.columns is None:
            return inputs[0] if not node.generated_columns else None
        names = inputs[0].names
        return pa.schema([inputs[0].field(c) for c in node.columns]) if all(c in names for c in node.columns) else None
    if isinstance(node, (ConsolidateNode, PartitionNode, UnionNode)):
        first = inputs[0] if inputs else None
        if isinstance(node, (HashPartitionNode, RangePartitionNode)) and node.source is not None:
            first = _of_query(node.source, inputs)
        keeps_number = isinstance(node, HashPartitionNode) and not (node.drop_partition_column or node.shuffle_only)
        if first is not None and keeps_number:
            assert isinstance(node, HashPartitionNode)
            return first.append(pa.field(node.data_partition_column, pa.int64()))
        return first
    return None


def _of_dataset(dataset: DataSet | None) -> pa.Schema | None:
    return None if dataset is None else dataset.schema().remove_metadata()


def _of_query(node: SqlEngineNode, inputs: list[pa.Schema | None]) -> pa.Schema | None:
    if len(node.sql_queries) > 1 or node.udfs or any(schema is None for schema in inputs):
        return None
    with empty_inputs(inputs, node.input_names) as (connection, _):
        query = render_for_planning(node, node.sql_queries[0])
        with engine.errors_of(query, f"the query of {node.name} made at {node.location}"):
            try:
                found = connection.sql(query)
            except duckdb.InvalidInputException:  # needs values that only a task has
                return None
        schema: pa.Schema | None = None if found is None else found.limit(0).to_arrow_table().schema
        return schema


class empty_inputs:
    """A scratch connection with empty tables of these schemas as `__input_0` … and under their names."""

    def __init__(self, schemas: list[pa.Schema | None], names: tuple[str, ...]) -> None:
        self._schemas = schemas
        self._names = [*(f"__input_{i}" for i in range(len(schemas))), *names]
        self._tables = [empty_table(schema) for schema in schemas if schema is not None]
        self._scratch = engine.scratch()

    def __enter__(self) -> tuple[engine.Connection, list[str]]:
        self._connection = self._scratch.__enter__()
        for name, table in zip(self._names, [*self._tables, *self._tables], strict=False):
            if name:
                self._connection.register(name, table)
        return self._connection, self._names

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            for name in self._names:
                if name:
                    self._connection.unregister(name)
        self._scratch.__exit__(*exc)  # type: ignore[arg-type]


def render_for_planning(node: SqlEngineNode, query: str) -> str:
    """The query over the empty inputs, with zeros where a task would stand."""
    names = {name: f"__input_{index}" for index, name in enumerate(node.input_names) if name}
    holes = {key: "0" for key in sql_text.references(query) if not key.isdigit() and key not in names}
    return sql_text.render(query, [f"__input_{i}" for i in range(len(node.input_deps))], {**holes, **names})
