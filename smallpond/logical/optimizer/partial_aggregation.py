"""Partial aggregation: a GROUP BY in two halves, the first before rows are moved.

    SELECT k, avg(v) AS m FROM {0} GROUP BY k HAVING count(*) > 1

becomes, before the move and after it:

    SELECT k, sum(v) AS __p0, count(v) AS __p1, count(*) AS __p2 FROM {0} GROUP BY k
    SELECT k, sum(__p0) / sum(__p1) AS m FROM {0} GROUP BY k HAVING sum(__p2) > 1

Only aggregates that can be put together from parts take part (`_SPLITS`); anything else, count(DISTINCT …) and median
first of all, leaves the query as it is. The rewritten query must have exactly the columns and types of the original,
as DuckDB binds both: whatever the rule does not understand fails that check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import duckdb
import pyarrow as pa

from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.errors import QueryError
from threefs.smallpond.io.plain import empty_table
from threefs.smallpond.logical.optimizer import sql_ast
from threefs.smallpond.logical.optimizer.sql_ast import INPUT, Tree

_COUNT = "CAST(coalesce(sum({0}), 0) AS BIGINT)"
# aggregate -> the parts computed first ({x}: its argument), and the whole made of them
_SPLITS: dict[str, tuple[tuple[str, ...], str]] = {
    "count_star": (("count(*)",), _COUNT),
    "count": (("count({x})",), _COUNT),
    "sum": (("sum({x})",), "sum({0})"),
    "avg": (("sum({x})", "count({x})"), "CAST(sum({0}) AS DOUBLE) / CAST(sum({1}) AS DOUBLE)"),
    "mean": (("sum({x})", "count({x})"), "CAST(sum({0}) AS DOUBLE) / CAST(sum({1}) AS DOUBLE)"),
    "min": (("min({x})",), "min({0})"),
    "max": (("max({x})",), "max({0})"),
    "bool_and": (("bool_and({x})",), "bool_and({0})"),
    "bool_or": (("bool_or({x})",), "bool_or({0})"),
    "bit_and": (("bit_and({x})",), "bit_and({0})"),
    "bit_or": (("bit_or({x})",), "bit_or({0})"),
    "bit_xor": (("bit_xor({x})",), "bit_xor({0})"),
}


class Halves(NamedTuple):
    before: str  # with {0} for the rows
    after: str  # with {0} for the rows of `before`


class CannotSplit(Exception):
    """The query is not of a kind that can be split."""


@dataclass
class _Parts:
    """What the first half computes: key and part columns by name."""

    keys: list[tuple[Tree, str]] = field(default_factory=list)
    parts: list[tuple[Tree, list[str]]] = field(default_factory=list)
    select: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)


def split(query: str, schema: pa.Schema, keep: Sequence[str]) -> Halves | None:
    """Both halves of a query over one input; None when it cannot be split. `keep`: columns that the first half must
    hand on under their names, because rows are moved by them."""
    try:
        return _split(query, schema, keep)
    except (CannotSplit, duckdb.Error, QueryError):
        return None


def _split(query: str, schema: pa.Schema, keep: Sequence[str]) -> Halves:
    node = sql_ast.parse(query)
    if node is None or not _is_plain(node):
        raise CannotSplit
    original = _bind(query, schema)
    parts = _Parts()
    groups = _resolve_groups(node, schema)
    for name in keep:
        _add_key(parts, sql_ast.expression(engine.quote_name(name)), name)
    for item in groups:
        if sql_ast.column_name(item) not in keep:
            _add_key(parts, item, f"__k{len(parts.keys)}")
    after = _second_half(node, groups, parts, original.names)
    if not parts.parts:
        raise CannotSplit  # a plain DISTINCT: nothing is put together
    before = _first_half(node, parts)
    middle = _bind(before, schema)
    if not _bind(after, middle).equals(original):
        raise CannotSplit
    return Halves(before.replace(INPUT, "{0}"), after.replace(INPUT, "{0}"))


def _is_plain(node: Tree) -> bool:
    groups = node["group_expressions"]
    sets = node.get("group_sets") or []
    one_set = not sets or (len(sets) == 1 and len(sets[0]) == len(groups))
    simple = node["aggregate_handling"] == "STANDARD_HANDLING" and not node.get("qualify") and not node.get("sample")
    no_window = not any(item["class"] in ("WINDOW", "STAR", "LAMBDA") for item in sql_ast.walk(node))
    distinct = any("DISTINCT" in modifier["type"] for modifier in node["modifiers"])
    return one_set and simple and no_window and not distinct and sql_ast.reads_only_input(node)


def _resolve_groups(node: Tree, schema: pa.Schema) -> list[Tree]:
    """GROUP BY's expressions: positions and aliases of the select list looked up."""
    found = []
    for item in node["group_expressions"]:
        name = sql_ast.column_name(item)
        if item["class"] == "CONSTANT":
            position = str((item.get("literal") or {}).get("text", ""))
            if not position.isdigit() or not 1 <= int(position) <= len(node["select_list"]):
                raise CannotSplit
            found.append({**node["select_list"][int(position) - 1], "alias": ""})
        elif name is not None and name not in schema.names:
            aliased = [chosen for chosen in node["select_list"] if chosen["alias"] == name]
            if len(aliased) != 1:
                raise CannotSplit
            found.append({**aliased[0], "alias": ""})
        else:
            found.append(item)
    return found


def _add_key(parts: _Parts, item: Tree, name: str) -> None:
    text = _text(item)
    parts.keys.append((item, name))
    parts.select.append(f"{text} AS {engine.quote_name(name)}")
    parts.group.append(text)


def _text(item: Tree) -> str:
    found = sql_ast.text_of(item)
    if found is None:
        raise CannotSplit
    return found


def _aggregates() -> frozenset[str]:
    if not _AGGREGATE_NAMES:
        with engine.scratch() as connection:
            rows = connection.sql(
                "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'"
            )
            _AGGREGATE_NAMES.update(name for (name,) in rows.fetchall())
    return frozenset(_AGGREGATE_NAMES)


_AGGREGATE_NAMES: set[str] = set()


def is_aggregate(item: Tree) -> bool:
    return item["class"] == "FUNCTION" and str(item["function_name"]).lower() in (_aggregates() | {"count_star"})


def _second_half(node: Tree, groups: list[Tree], parts: _Parts, names: list[str]) -> str:
    def change(item: Tree) -> Tree | None:
        for key, name in parts.keys:
            if sql_ast.same(item, key):
                return {**sql_ast.expression(engine.quote_name(name)), "alias": item["alias"]}
        if is_aggregate(item):
            return {**sql_ast.expression(_merged(item, parts)), "alias": item["alias"]}
        return None

    after = dict(node)
    chosen = sql_ast.rewrite(node["select_list"], change)
    if len(chosen) != len(names):
        raise CannotSplit
    after["select_list"] = [{**item, "alias": name} for item, name in zip(chosen, names, strict=True)]
    after["group_expressions"] = sql_ast.rewrite(groups, change)
    after["having"] = sql_ast.rewrite(node["having"], change) if node["having"] else None
    after["modifiers"] = sql_ast.rewrite(node["modifiers"], change)
    after["where_clause"] = None
    text = sql_ast.unparse(after)
    if text is None:
        raise CannotSplit
    return text


def _merged(item: Tree, parts: _Parts) -> str:
    """The whole of an aggregate, over the columns of its parts."""
    name = str(item["function_name"]).lower()
    ordered = (item.get("order_bys") or {}).get("orders")
    if name not in _SPLITS or item["distinct"] or ordered or len(item["arguments"]) > 1:
        raise CannotSplit
    pieces, whole = _SPLITS[name]
    for known, columns in parts.parts:
        if sql_ast.same(known, item):
            return whole.format(*columns)
    argument = _text(sql_ast.argument(item, 0)) if item["arguments"] else ""
    only = f" FILTER (WHERE {_text(item['filter'])})" if item["filter"] else ""
    columns = [f"__p{len(parts.parts)}_{index}" for index in range(len(pieces))]
    parts.select += [f"{piece.replace('{x}', argument)}{only} AS {c}" for piece, c in zip(pieces, columns, strict=True)]
    parts.parts.append((item, columns))
    return whole.format(*columns)


def _first_half(node: Tree, parts: _Parts) -> str:
    where = f" WHERE {_text(node['where_clause'])}" if node["where_clause"] else ""
    group = f" GROUP BY {', '.join(parts.group)}" if parts.group else ""
    return f"SELECT {', '.join(parts.select)} FROM {INPUT}{where}{group}"


def _bind(query: str, schema: pa.Schema) -> pa.Schema:
    """The columns of a query over an input of this schema."""
    with engine.scratch() as connection:
        connection.register(INPUT, empty_table(schema))
        try:
            found: pa.Schema = connection.sql(query).limit(0).to_arrow_table().schema
        finally:
            connection.unregister(INPUT)
    return found
