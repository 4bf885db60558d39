"""Column pruning: a shuffle moves only the columns that its reader asks for.

DuckDB's own planner says which columns a query reads from its input, however the query is nested.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import duckdb
import pyarrow as pa

from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.logical.node import HashPartitionNode, Node, SqlEngineNode
from threefs.smallpond.logical.node.plan import walk
from threefs.smallpond.logical.schema import SchemaCache, empty_inputs, render_for_planning


def prune(roots: Sequence[Node], schemas: SchemaCache, computed: AbstractSet[int]) -> list[Node]:
    """The plans with narrowed shuffles."""
    everything = list({id(node): node for root in roots for node in walk(root)}.values())
    readers = Counter(id(dep) for node in everything for dep in node.input_deps)
    readers.update(id(root) for root in roots)
    done: dict[int, Node] = {}
    for node in everything:
        if node.id in computed:
            done[id(node)] = node
            continue
        found = node.with_inputs([done[id(dep)] for dep in node.input_deps])
        if isinstance(found, SqlEngineNode):
            single = [readers[id(dep)] == 1 and dep.id not in computed for dep in node.input_deps]
            found = _narrow_inputs(found, single, schemas)
        done[id(node)] = found
    return [done[id(root)] for root in roots]


def _narrow_inputs(node: SqlEngineNode, single: Sequence[bool], schemas: SchemaCache) -> SqlEngineNode:
    candidates = [
        index
        for index, dep in enumerate(node.input_deps)
        if single[index] and isinstance(dep, HashPartitionNode) and not dep.keeps_parquet and dep.columns is None
    ]
    inputs = [schemas.of(dep) for dep in node.input_deps]
    if not candidates or len(node.sql_queries) > 1 or node.udfs or any(schema is None for schema in inputs):
        return node
    used = used_columns(node, inputs)
    if used is None:
        return node
    deps = list(node.input_deps)
    for index in candidates:
        schema, dep = inputs[index], deps[index]
        assert schema is not None
        assert isinstance(dep, HashPartitionNode)
        wanted = [name for name in schema.names if name in used[index]]
        if dep.data_partition_column in wanted and not dep.shuffle_only:
            continue  # the column that the partition adds
        if len(wanted) < len(schema.names):
            narrowed: HashPartitionNode = dep.copy()
            narrowed.columns = wanted or schema.names[:1]
            deps[index] = narrowed
    found = node.with_inputs(deps)
    assert isinstance(found, SqlEngineNode)
    return found


def used_columns(node: SqlEngineNode, inputs: list[pa.Schema | None]) -> list[set[str]] | None:
    """For every input, the columns that the query reads; None when DuckDB does not say."""
    query = render_for_planning(node, node.sql_queries[0])
    try:
        with empty_inputs(inputs, node.input_names) as (connection, _):
            rows = connection.sql(f"EXPLAIN (FORMAT json) {query}").fetchall()
    except (duckdb.Error, engine.QueryError):
        return None
    scans = [found for tree in json.loads(rows[0][1]) for found in _scans(tree)]
    if len(node.input_deps) == 1 and scans:
        return [set().union(*scans)]
    # Several inputs: a name read anywhere counts for every input that has it.
    names = set().union(*scans) if scans else None
    return None if names is None else [names & set(schema.names) for schema in inputs if schema is not None]


def _scans(tree: dict[str, Any]) -> list[set[str]]:
    found: list[set[str]] = []
    if tree["name"].strip().endswith("SCAN"):
        listed = tree.get("extra_info", {}).get("Projections", [])
        found.append({listed} if isinstance(listed, str) else set(listed))
    for child in tree.get("children", []):
        found += _scans(child)
    return found
