"""SQL text for what data frames offer as methods: joins, orders, aggregates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from threefs.smallpond.errors import PlanError

AGGREGATES = ("sum", "min", "max", "avg", "median", "stddev", "variance", "first", "last", "any_value", "list")
JOINS = {
    "inner": "JOIN",
    "left": "LEFT JOIN",
    "right": "RIGHT JOIN",
    "full": "FULL JOIN",
    "semi": "SEMI JOIN",
    "anti": "ANTI JOIN",
}
_ORDER = re.compile(
    r"\s*(?P<what>.*?)(?:\s+(?P<way>asc|desc))?(?:\s+nulls\s+(?P<nulls>first|last))?\s*", re.IGNORECASE | re.DOTALL
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quoted_list(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names)


@dataclass(frozen=True)
class OrderTerm:
    column: str
    descending: bool
    nulls: Literal["first", "last"]

    @property
    def sql(self) -> str:
        name = quoted(self.column) if self.column.isidentifier() else self.column
        return f"{name} {'DESC' if self.descending else 'ASC'} NULLS {self.nulls.upper()}"


def order_terms(by: Sequence[str]) -> list[OrderTerm]:
    """`'a'`, `'b desc'`, `'c nulls first'`; nulls come last unless said otherwise, as in DuckDB."""
    terms = []
    for text in by:
        found = _ORDER.fullmatch(text)
        if found is None or not found["what"]:
            raise PlanError(f"cannot order by {text!r}")
        nulls: Literal["first", "last"] = "first" if (found["nulls"] or "").lower() == "first" else "last"
        terms.append(OrderTerm(found["what"].strip('"'), (found["way"] or "").lower() == "desc", nulls))
    if not terms:
        raise PlanError("sort needs a column")
    return terms


def join_query(keys: Sequence[str], how: str) -> str:
    if how not in JOINS:
        raise PlanError(f"join {how!r} is none of {', '.join(JOINS)}")
    if not keys:
        raise PlanError("a join needs columns: on='key'")
    return f"SELECT * FROM {{0}} {JOINS[how]} {{1}} USING ({quoted_list(keys)})"


def aggregate_list(expressions: Sequence[str], named: Mapping[str, str]) -> str:
    chosen = [*expressions, *(f"{text} AS {quoted(name)}" for name, text in named.items())]
    if not chosen:
        raise PlanError("agg needs an expression: agg('count(*) AS n'), or agg(total='sum(v)')")
    return ", ".join(chosen)
