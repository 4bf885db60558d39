"""SQL fusion: a query over a query becomes one query, so that rows are not written and read in between.

SELECT a FROM {0} WHERE b      over      SELECT * FROM {0} JOIN {1} …
SELECT a FROM (SELECT * FROM {0} JOIN {1} …) WHERE b
"""

from __future__ import annotations

import re
from collections.abc import Callable

from threefs.smallpond.logical import sql_text
from threefs.smallpond.logical.node import LimitNode, Node, SqlEngineNode

_ORDER = re.compile(r"\border\s+by\b|\blimit\b", re.IGNORECASE)  # inside of another query an order is not kept
_QUALIFIED = re.compile(r"\{\s*0\s*\}\s*\.")
LENGTH_MAX = 20_000


def fuse(node: SqlEngineNode, may_merge: Callable[[Node], bool]) -> SqlEngineNode:
    """The node with its only input merged into it, where that input is a query read in one place."""
    child = node.input_deps[0] if len(node.input_deps) == 1 else None
    if not isinstance(child, SqlEngineNode) or not may_merge(child) or not _can_fuse(node, child):
        return node
    found: SqlEngineNode = node.copy()
    inner = child.sql_queries[0]
    found.sql_queries = (sql_text.render(node.sql_queries[0], [f"(\n{inner}\n)"], {}),)
    found.input_deps = child.input_deps
    found.input_names = child.input_names
    found.udfs = [*child.udfs, *(udf for udf in node.udfs if udf.name not in {known.name for known in child.udfs})]
    found.cpu_limit = max(node.cpu_limit, child.cpu_limit)
    limits = [limit for limit in (node.memory_limit, child.memory_limit) if limit]
    found.memory_limit = max(limits) if limits else None
    found.label = ""
    return found


def _can_fuse(node: SqlEngineNode, child: SqlEngineNode) -> bool:
    plain = not isinstance(node, LimitNode) and not isinstance(child, LimitNode)
    plain = plain and not (node.batched_processing or child.batched_processing or any(node.input_names))
    if not plain or len(node.sql_queries) > 1 or len(child.sql_queries) > 1 or not child.input_deps:
        return False
    outer, inner = node.sql_queries[0], child.sql_queries[0]
    once = len(re.findall(r"\{\s*0\s*\}", outer)) == 1 and not _QUALIFIED.search(outer)
    task_names = sql_text.references(outer) & set(sql_text.TASK_NAMES)
    return once and not task_names and not _ORDER.search(inner) and len(outer) + len(inner) < LENGTH_MAX
