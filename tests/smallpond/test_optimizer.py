"""The optimiser: same rows as without it, and the plan that was meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import threefs.smallpond as smallpond
from threefs.smallpond.dataframe import DataFrame
from threefs.smallpond.logical.node import HashPartitionNode, SqlEngineNode
from threefs.smallpond.logical.node.plan import walk
from threefs.smallpond.logical.optimizer import optimize
from threefs.smallpond.session import Session


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with smallpond.init(data_root=str(tmp_path_factory.mktemp("plain")), optimize=False, progress=False) as session:
        yield session


def rows() -> pa.Table:
    random = np.random.default_rng(1)
    count = 1000
    v = random.random(count)
    return pa.table(
        {
            "k": random.integers(0, 20, count),
            "v": pa.array(v, mask=v > 0.9),
            "i": random.integers(0, 100, count).astype(np.int32),
            "s": [f"s{i % 5}" for i in range(count)],
            "b": random.random(count) > 0.5,
        }
    )


def optimized(frame: DataFrame) -> list[Any]:
    (root,) = optimize(frame.session._ctx, [frame.plan])
    return list(walk(root))


def source_of(frame: DataFrame) -> str | None:
    found = [node.source for node in optimized(frame) if isinstance(node, HashPartitionNode)]
    return found[0].sql_queries[0] if found and found[0] is not None else None


def comparable(table: pa.Table) -> list[str]:
    def rounded(value: Any) -> Any:
        return round(value, 9) if isinstance(value, float) else value

    return sorted(repr({name: rounded(value) for name, value in row.items()}) for row in table.to_pylist())


SPLIT = [
    "SELECT k, avg(i) AS m, count(*) AS n FROM {0} GROUP BY k HAVING count(*) > 45",
    "SELECT k, sum(i) + 1 AS x, max(s), min(v) FROM {0} WHERE i > 10 GROUP BY k",
    "SELECT k % 3 AS g, k, count(i) FILTER (WHERE i > 5) AS c FROM {0} GROUP BY 1, k",
    "SELECT k, avg(v), sum(v * 2), bool_or(b), bool_and(b) FROM {0} GROUP BY k",
    "SELECT count(*) AS n, sum(i) FROM {0}",
    "SELECT k, count(*) AS c FROM {0} GROUP BY k ORDER BY c DESC, k LIMIT 3",
    "SELECT s, max(i) AS top, {'n': count(*)} AS st FROM {0} GROUP BY s",
    "SELECT upper(s) AS u, sum(CASE WHEN b THEN i ELSE 0 END) AS t FROM {0} GROUP BY u",
]
WHOLE = [
    "SELECT k, count(DISTINCT i) AS d FROM {0} GROUP BY k",
    "SELECT k, median(i) FROM {0} GROUP BY k",
    "SELECT k, sum(i), median(v) FROM {0} GROUP BY k",
    "SELECT k, string_agg(s, ',' ORDER BY i, s, v) FROM {0} GROUP BY k",
    "SELECT k, sum(i) OVER (PARTITION BY k) AS z FROM {0}",
    "SELECT k, i FROM {0} WHERE i > 95",
    "SELECT DISTINCT k FROM {0}",
    "SELECT a.k, count(*) AS n FROM {0} AS a JOIN {0} AS b USING (k) GROUP BY a.k",
    "SELECT k, sum(i) AS t FROM {0} GROUP BY ROLLUP (k)",
    "SELECT k, max(i) - (SELECT min(i) FROM {0}) AS t FROM {0} GROUP BY k",
]


@pytest.mark.parametrize("query", [*SPLIT, *WHOLE])
def test_same_rows_and_types_with_and_without(sp: Session, plain: Session, query: str) -> None:
    found = []
    for session in (sp, plain):
        frame = session.from_arrow(rows()).repartition(3, by_rows=True).repartition(4, hash_by="k")
        found.append(session.partial_sql(query, frame).to_arrow())
    assert found[0].schema == found[1].schema
    assert comparable(found[0]) == comparable(found[1])


@pytest.mark.parametrize("query", SPLIT)
def test_aggregates_are_split(sp: Session, query: str) -> None:
    frame = sp.from_arrow(rows()).repartition(3, by_rows=True).repartition(4, hash_by="k")
    assert "__p0" in (source_of(sp.partial_sql(query, frame)) or "")


@pytest.mark.parametrize("query", WHOLE)
def test_what_cannot_be_split_is_left_whole(sp: Session, query: str) -> None:
    frame = sp.from_arrow(rows()).repartition(3, by_rows=True).repartition(4, hash_by="k")
    assert "__p0" not in (source_of(sp.partial_sql(query, frame)) or "")


def test_filters_go_below_the_shuffle(sp: Session) -> None:
    frame = sp.from_arrow(rows()).repartition(4, hash_by="k").filter("i > 95 AND s <> 'x'")
    assert "i > 95" in (source_of(frame) or "")
    assert source_of(sp.from_arrow(rows()).repartition(4, hash_by="k").filter("random() > 2")) is None


def test_only_needed_columns_are_shuffled(sp: Session) -> None:
    frame = sp.from_arrow(rows()).repartition(4, hash_by="k").map("s || 'x' AS t")
    (partition,) = [node for node in optimized(frame) if isinstance(node, HashPartitionNode)]
    assert partition.columns == ["s"]
    assert frame.count() == 1000


def test_queries_are_fused(sp: Session) -> None:
    frame = sp.from_items([{"a": i} for i in range(10)]).map("a * 2 AS a").filter("a > 4").map("a + 1 AS a")
    assert len([node for node in optimized(frame) if isinstance(node, SqlEngineNode)]) == 1
    assert [row["a"] for row in frame.take_all()] == [7, 9, 11, 13, 15, 17, 19]


def test_what_two_readers_share_is_not_fused_and_runs_once(sp: Session, tmp_path: Path) -> None:
    shared = sp.from_items([{"a": i} for i in range(4)]).map(note_calls(str(tmp_path / "calls"))).map("a + 1 AS a")
    left, right = shared.filter("a > 2"), shared.filter("a <= 2")
    assert left.union(right).count() == 4
    assert (tmp_path / "calls").read_text() == "...."


def note_calls(path: str) -> Any:
    def note(row: dict[str, Any]) -> dict[str, Any]:
        with open(path, "a") as file:
            file.write(".")
        return row

    return note


def test_global_aggregates_are_computed_where_the_rows_are(sp: Session) -> None:
    frame = sp.from_arrow(rows()).repartition(4, by_rows=True).agg(n="count(*)", m="avg(i)")
    queries = [node.sql_queries[0] for node in optimized(frame) if isinstance(node, SqlEngineNode)]
    assert len(queries) == 2
    assert frame.take_all() == [{"n": 1000, "m": pytest.approx(np.mean(rows()["i"].to_numpy()))}]


def test_a_subplan_that_is_written_twice_runs_once(sp: Session, tmp_path: Path) -> None:
    note = note_calls(str(tmp_path / "calls"))
    source = sp.from_items([{"a": 1}])
    assert source.map(note).union(source.map(note)).count() == 2
    assert (tmp_path / "calls").read_text() == "."
