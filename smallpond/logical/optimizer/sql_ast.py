"""SQL as DuckDB's own parser sees it: text to tree (JSON), tree to text. The rules change trees, never text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import duckdb

from threefs.smallpond.engines import duckdb as engine

Tree = dict[str, Any]
INPUT = "__input_0"


def parse(query: str) -> Tree | None:
    """The single SELECT of a query; None for anything else."""
    with engine.scratch() as connection:
        (text,) = engine.first_row(connection, f"SELECT json_serialize_sql({engine.quote(query)})")
    found = json.loads(text)
    if found.get("error") or len(found["statements"]) != 1:
        return None
    node: Tree = found["statements"][0]["node"]
    return node if node["type"] == "SELECT_NODE" else None


def unparse(node: Tree) -> str | None:
    """The query of a tree; None if DuckDB cannot write it."""
    text = json.dumps({"error": False, "statements": [{"node": node}]})
    try:
        with engine.scratch() as connection:
            found: str = engine.first_row(connection, f"SELECT json_deserialize_sql({engine.quote(text)})")[0]
    except (duckdb.Error, engine.QueryError):
        return None
    return found


def expression(text: str) -> Tree:
    """The tree of one expression."""
    node = parse(f"SELECT {text}")
    assert node is not None, text
    found: Tree = node["select_list"][0]
    return found


def text_of(item: Tree) -> str | None:
    """The text of an expression, without its alias."""
    holder = parse("SELECT 1")
    assert holder is not None
    holder["select_list"] = [{**item, "alias": ""}]
    found = unparse(holder)
    return None if found is None else found.strip().removeprefix("SELECT ").strip()


def walk(item: Any) -> Iterator[Tree]:
    """Every expression below and with `item`."""
    if isinstance(item, dict):
        if "class" in item:
            yield item
        for value in item.values():
            yield from walk(value)
    elif isinstance(item, list):
        for value in item:
            yield from walk(value)


def rewrite(item: Any, change: Callable[[Tree], Tree | None]) -> Any:
    """A copy in which every expression that `change` answers for is replaced, outermost first."""
    if isinstance(item, dict):
        if "class" in item:
            found = change(item)
            if found is not None:
                return found
        return {key: rewrite(value, change) for key, value in item.items()}
    if isinstance(item, list):
        return [rewrite(value, change) for value in item]
    return item


def same(left: Tree, right: Tree) -> bool:
    """The same expression, wherever it stands in the text and whatever it is called."""
    return _bare(left) == _bare(right)


def _bare(item: Any) -> Any:
    if isinstance(item, dict):
        return {k: _bare(v) for k, v in item.items() if k not in ("query_location", "query_location_length", "alias")}
    if isinstance(item, list):
        return [_bare(value) for value in item]
    return item


def reads_only_input(node: Tree) -> bool:
    """FROM is the one input, and nothing below reads a table of its own."""
    source = node.get("from_table") or {}
    if source.get("type") != "BASE_TABLE" or source.get("table_name") != INPUT or source.get("sample"):
        return False
    return not any(item["class"] == "SUBQUERY" for item in walk(node)) and not node["cte_map"]["map"]


def argument(item: Tree, index: int) -> Tree:
    """An argument of a function call; since DuckDB 2 arguments may have names, and are wrapped."""
    found: Tree = item["arguments"][index]
    inner: Tree = found.get("expression", found)
    return inner


def column_name(item: Tree) -> str | None:
    """The name of a plain column reference (also `t.column`)."""
    if item["class"] != "COLUMN_REF":
        return None
    return str(item["column_names"][-1])
