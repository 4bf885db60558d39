"""Rows as a table: in text for terminals, in HTML for notebooks."""

from __future__ import annotations

import html

import pyarrow as pa

CELL_MAX = 40


def _cell(value: object) -> str:
    text = "NULL" if value is None else str(value)
    return text if len(text) <= CELL_MAX else text[: CELL_MAX - 1] + "…"


def _foot(table: pa.Table, partitions: int) -> str:
    plural = "" if partitions == 1 else "s"
    return f"first {table.num_rows} rows, {table.num_columns} columns, {partitions} partition{plural}"


def text_table(table: pa.Table, partitions: int) -> str:
    """Names, types and rows in columns; numbers to the right."""
    columns = []
    for field, values in zip(table.schema, table.columns, strict=True):
        cells = [field.name, str(field.type), *(_cell(value) for value in values.to_pylist())]
        width = max(map(len, cells))
        right = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in cells])
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    if lines:
        lines.insert(2, "  ".join("─" * len(column[0]) for column in columns))
    return "\n".join([*lines, f"({_foot(table, partitions)})"])


def html_table(table: pa.Table, partitions: int) -> str:
    head = "".join(
        f"<th>{html.escape(field.name)}<br><small>{html.escape(str(field.type))}</small></th>" for field in table.schema
    )
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in row) + "</tr>" for row in rows)
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><small>{_foot(table, partitions)}</small>"
    )


def html_plan(title: str, plan: str) -> str:
    return f"<p>{html.escape(title)}</p><details><summary>plan</summary><pre>{html.escape(plan)}</pre></details>"
