"""What of a query can be done before rows are moved: partial aggregation, filters, and queries by row.

The query stands over a hash partition (or over a consolidation, where all rows come together). What goes first becomes
the partition node's `source`: its producers deal out the rows of that query.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa

from threefs.smallpond.logical.node import ConsolidateNode, Context, HashPartitionNode, LimitNode, Node, SqlEngineNode
from threefs.smallpond.logical.optimizer import partial_aggregation, sql_ast
from threefs.smallpond.logical.schema import SchemaCache

PRODUCER_MEMORY = 0.5  # of a producer's memory for its query; the shuffle uses the rest


def into_exchange(
    ctx: Context, node: SqlEngineNode, may_merge: Callable[[Node], bool], schemas: SchemaCache
) -> SqlEngineNode:
    """The query with its first half below the exchange that it reads, if it reads one alone."""
    below = node.input_deps[0] if len(node.input_deps) == 1 else None
    if below is None or not may_merge(below) or not _is_plain_sql(node):
        return node
    if isinstance(below, ConsolidateNode) and below.num_partitions == 1 and below.input_deps[0].num_partitions > 1:
        return _below_consolidation(ctx, node, below, schemas)
    if isinstance(below, HashPartitionNode) and _is_open(below):
        return _below_partition(ctx, node, below, schemas)
    return node


def _is_plain_sql(node: SqlEngineNode) -> bool:
    plain = len(node.sql_queries) == 1 and not node.udfs and not node.batched_processing and not any(node.input_names)
    return plain and not isinstance(node, LimitNode)


def _is_open(below: HashPartitionNode) -> bool:
    """Nobody sees the rows in between: no kept files, no partition column, keys that are columns."""
    names = [below.data_partition_column] if below.shuffle_only else below.hash_columns
    hidden = below.drop_partition_column or below.shuffle_only
    return (
        below.source is None
        and not (below.nested or below.keeps_parquet or below.random_shuffle)
        and hidden
        and all(name.isidentifier() for name in names)
        and len(below.input_deps) == 1
    )


def _rendered(node: SqlEngineNode) -> str:
    return re.sub(r"\{\s*0\s*\}", sql_ast.INPUT, node.sql_queries[0])


def _keys(below: HashPartitionNode) -> list[str]:
    return [below.data_partition_column] if below.shuffle_only else list(below.hash_columns)


def _below_consolidation(
    ctx: Context, node: SqlEngineNode, below: ConsolidateNode, schemas: SchemaCache
) -> SqlEngineNode:
    source = below.input_deps[0]
    schema = schemas.of(source)
    halves = partial_aggregation.split(_rendered(node), schema, []) if schema is not None else None
    if halves is None:
        return node
    first = _query(ctx, node, source, halves.before, "partial aggregates")
    found: SqlEngineNode = node.copy()
    found.input_deps = (below.with_inputs([first]),)
    found.sql_queries = (halves.after,)
    return found


def _below_partition(
    ctx: Context,
    node: SqlEngineNode,
    below: HashPartitionNode,
    schemas: SchemaCache,
) -> SqlEngineNode:
    source = below.input_deps[0]
    schema = schemas.of(source)
    if schema is None or any(key not in schema.names for key in _keys(below)):
        return node
    halves = partial_aggregation.split(_rendered(node), schema, _keys(below))
    if halves is not None:
        return _with_source(ctx, node, below, halves.before, halves.after, "partial aggregates")
    condition = _pushable_filter(_rendered(node), schema)
    if condition is not None:
        query = f"SELECT * FROM {{0}} WHERE {condition}"
        return _with_source(ctx, node, below, query, node.sql_queries[0], "filter")
    return node


def _with_source(
    ctx: Context, node: SqlEngineNode, below: HashPartitionNode, before: str, after: str, label: str
) -> SqlEngineNode:
    """The partition deals out the rows of `before`, and the node asks `after` of them."""
    partition: HashPartitionNode = below.copy()
    partition.source = _query(ctx, node, below.input_deps[0], before, label)
    found: SqlEngineNode = node.copy()
    found.input_deps = (partition,)
    found.sql_queries = (after,)
    return found


def _query(ctx: Context, node: SqlEngineNode, source: Node, query: str, label: str) -> SqlEngineNode:
    found = SqlEngineNode(
        ctx,
        (source,),
        query,
        cpu_limit=node.cpu_limit,
        memory_limit=node.memory_limit,
        memory_overcommit_ratio=PRODUCER_MEMORY,
    )
    found.location = node.location
    found.label = label
    return found


_VOLATILE = re.compile(r"\b(random|uuid|nextval|setseed)\b", re.IGNORECASE)


def _pushable_filter(query: str, schema: pa.Schema) -> str | None:
    """The WHERE clause of a query over the input alone, if it can as well be asked before rows are moved."""
    node = sql_ast.parse(query)
    if node is None or not node["where_clause"] or not sql_ast.reads_only_input(node):
        return None
    names = [sql_ast.column_name(item) for item in sql_ast.walk(node["where_clause"]) if item["class"] == "COLUMN_REF"]
    if any(name not in schema.names for name in names) or any(
        item["class"] == "WINDOW" for item in sql_ast.walk(node["where_clause"])
    ):
        return None
    text = sql_ast.text_of(node["where_clause"])
    return None if text is None or _VOLATILE.search(text) or sql_ast.INPUT in text else text
