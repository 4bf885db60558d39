"""Every method of data frames, on real files, workers and engines."""

from __future__ import annotations

import os
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import threefs.smallpond as smallpond
from threefs.smallpond.errors import PlanError, QueryError
from threefs.smallpond.session import Session


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


def partitions(frame: Any) -> list[list[dict[str, Any]]]:
    frame.compute()
    return [dataset.to_arrow_table().to_pylist() for dataset in frame._result]


# ---- sources ----


def test_read_parquet_takes_folders_patterns_and_lists(sp: Session, numbers: str) -> None:
    assert sp.read_parquet(numbers).count() == 1000
    assert sp.read_parquet(f"{numbers}/0[0-4].parquet").count() == 500
    assert sp.read_parquet([f"{numbers}/00.parquet", f"{numbers}/09.parquet"]).count() == 200
    assert ids(sp.read_parquet(numbers).take_all()) == list(range(1000))


def test_read_parquet_narrows_and_recurses(sp: Session, numbers: str) -> None:
    assert sp.read_parquet(numbers, columns=["k"]).columns == ["k"]
    assert sp.read_parquet(os.path.dirname(numbers), recursive=True).count() == 1000


def test_read_parquet_by_name(sp: Session, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": [3], "c": [4]}), tmp_path / "2.parquet")
    rows = sp.read_parquet(str(tmp_path), union_by_name=True).take_all()
    assert rows == [{"a": 1, "b": 2, "c": None}, {"a": None, "b": 3, "c": 4}]


def test_read_csv_with_and_without_schema(sp: Session, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1|a\n2|b\n")
    assert sp.read_csv(str(tmp_path / "x.csv"), {"n": "INTEGER", "t": "VARCHAR"}, delim="|").take_all() == [
        {"n": 1, "t": "a"},
        {"n": 2, "t": "b"},
    ]
    (tmp_path / "y.csv").write_text("n,t\n1,a\n")
    assert sp.read_csv(str(tmp_path / "y.csv")).take_all() == [{"n": 1, "t": "a"}]


def test_read_json(sp: Session, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"n": 1, "t": "a"}\n{"n": 2, "t": null}\n')
    path = str(tmp_path / "x.jsonl")
    assert sp.read_json(path, {"n": "BIGINT", "t": "VARCHAR"}).take_all() == [{"n": 1, "t": "a"}, {"n": 2, "t": None}]
    assert sp.read_json(path).count() == 2


def test_from_items_arrow_and_pandas(sp: Session) -> None:
    assert sp.from_items([1, 2]).take_all() == [{"item": 1}, {"item": 2}]
    assert sp.from_items([{"a": 1}, {"b": "x"}]).take_all() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    assert sp.from_arrow(pa.table({"a": [1, 2]})).count() == 2
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    assert sp.from_pandas(frame).repartition(2).map("a + 1 AS a").to_pandas()["a"].tolist() == [2, 3, 4]


# ---- repartition ----


def test_repartition_by_files_keeps_files_together(sp: Session, numbers: str) -> None:
    parts = partitions(sp.read_parquet(numbers).repartition(3))
    assert [len(part) for part in parts] == [400, 300, 300]
    assert [row["id"] for part in parts for row in part] == list(range(1000))


def test_repartition_into_more_partitions_than_files_leaves_typed_empty_ones(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(12)
    parts = partitions(frame)
    assert [len(part) for part in parts] == [100] * 10 + [0, 0]
    assert partitions(frame.map("id + 1 AS id"))[11] == []


def test_repartition_by_rows_cuts_evenly(sp: Session, numbers: str) -> None:
    parts = partitions(sp.read_parquet(numbers).repartition(7, by_rows=True))
    assert sorted(map(len, parts)) == [142, 143, 143, 143, 143, 143, 143]
    assert [row["id"] for part in parts for row in part] == list(range(1000))


def test_repartition_by_hash_brings_equal_keys_together(sp: Session, numbers: str) -> None:
    for keys in ("k", ["k", "s"]):
        frame = sp.read_parquet(numbers).repartition(5, hash_by=keys)
        names = [keys] if isinstance(keys, str) else keys
        seen: dict[Any, int] = {}
        rows = 0
        for index, part in enumerate(partitions(frame)):
            rows += len(part)
            for row in part:
                assert seen.setdefault(tuple(row[name] for name in names), index) == index
        assert rows == 1000
        assert frame.columns == ["id", "k", "s"]


def test_repartition_by_column_and_by_expression(sp: Session, numbers: str) -> None:
    for by in ("k", "id % 7"):
        parts = partitions(sp.read_parquet(numbers).repartition(7, by=by))
        assert [{row["k"] for row in part} for part in parts] == [{k} for k in range(7)]


def test_repartition_out_of_range_says_which_key(sp: Session, numbers: str) -> None:
    with pytest.raises(PlanError, match="partition key 6 is out of range 0-4"):
        sp.read_parquet(numbers).repartition(5, by="k").compute()


def test_repartition_by_range_is_ordered_and_even(sp: Session, numbers: str) -> None:
    parts = partitions(sp.read_parquet(numbers).repartition(4, range_by="id"))
    bounds = [(min(ids(part)), max(ids(part))) for part in parts]
    assert all(left[1] < right[0] for left, right in pairwise(bounds))
    assert all(200 <= len(part) <= 300 for part in parts)


def test_repartition_modes_exclude_each_other(sp: Session, numbers: str) -> None:
    with pytest.raises(PlanError, match="exclude each other"):
        sp.read_parquet(numbers).repartition(2, hash_by="k", by="k")
    with pytest.raises(PlanError, match="at least 1"):
        sp.read_parquet(numbers).repartition(0)


# ---- rows ----


def test_partial_sql_runs_once_a_partition(sp: Session, numbers: str) -> None:
    frame = sp.partial_sql("SELECT count(*) AS n FROM {0}", sp.read_parquet(numbers).repartition(4))
    assert [row["n"] for row in frame.take_all()] == [300, 300, 200, 200]
    assert sp.partial_sql("SELECT range AS x FROM range(3)").take_all() == [{"x": 0}, {"x": 1}, {"x": 2}]


def test_partial_sql_matches_and_broadcasts(sp: Session, numbers: str) -> None:
    left = sp.read_parquet(numbers).repartition(3, hash_by="k")
    right = sp.from_items([{"k": k, "name": f"n{k}"} for k in range(7)])
    query = "SELECT id, name FROM {0} JOIN {1} USING (k)"
    for other in (right, right.repartition(3, hash_by="k")):
        assert sorted(ids(sp.partial_sql(query, left, other).take_all())) == list(range(1000))
    with pytest.raises(PlanError, match="partitioned differently"):
        sp.partial_sql(query, left, right.repartition(4, hash_by="k")).compute()


def test_inputs_by_name(sp: Session) -> None:
    a, b = sp.from_items([{"x": 1}]), sp.from_items([{"x": 1, "y": 2}])
    assert sp.partial_sql("SELECT y FROM {a} JOIN b USING (x)", a=a, b=b).take_all() == [{"y": 2}]


def test_map_with_sql_and_function(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(3)
    assert frame.map("id + 1 AS id").to_arrow()["id"].to_pylist() == list(range(1, 1001))
    assert frame.map("max(id) AS id").to_arrow()["id"].to_pylist() == [399, 699, 999]
    assert ids(frame.map(lambda row: {"id": row["id"] * 2}).take_all()) == list(range(0, 2000, 2))
    typed = frame.map(lambda row: {"id": row["id"]}, schema=pa.schema([("id", pa.int8())]))
    with pytest.raises(Exception, match="int8|too large"):
        typed.compute()


def test_flat_map(sp: Session) -> None:
    frame = sp.from_items([{"a": [1, 2]}, {"a": [3]}])
    assert frame.flat_map("unnest(a) AS b").take_all() == [{"b": 1}, {"b": 2}, {"b": 3}]
    assert frame.flat_map(lambda row: [{"b": x} for x in row["a"]]).take_all() == [{"b": 1}, {"b": 2}, {"b": 3}]


def test_map_batches_cross_file_borders(sp: Session, numbers: str) -> None:
    def size(table: pa.Table) -> pa.Table:
        return pa.table({"rows": [table.num_rows]})

    sizes = sp.read_parquet(numbers).map_batches(size, batch_size=350).to_arrow()["rows"].to_pylist()
    assert sizes == [350, 350, 300]


def test_map_batches_of_pandas_and_polars(sp: Session, numbers: str) -> None:
    import polars

    frame = sp.read_parquet(numbers)
    pandas_rows = frame.map_batches(lambda df: df[df.id > 995][["id"]], batch_format="pandas")
    polars_rows = frame.map_batches(lambda df: df.filter(polars.col("id") > 995).select("id"), batch_format="polars")
    assert ids(pandas_rows.take_all()) == ids(polars_rows.take_all()) == [996, 997, 998, 999]
    made = sp.from_polars(polars.DataFrame({"a": [1, 2], "s": ["x", "y"]}).lazy()).map("a + 1 AS a, s || '!' AS s")
    assert made.to_polars().to_dicts() == [{"a": 2, "s": "x!"}, {"a": 3, "s": "y!"}]
    with pytest.raises(PlanError, match="streaming function takes Arrow tables"):
        frame.map_batches(lambda df: df, streaming=True, batch_format="polars")
    with pytest.raises(PlanError, match="'spark' is none of arrow, pandas, polars"):
        frame.map_batches(lambda df: df, batch_format="spark")  # type: ignore[arg-type]


def test_map_batches_streaming(sp: Session, numbers: str) -> None:
    def running(tables: Any) -> Any:
        total = 0
        for table in tables:
            total += table.num_rows
            yield pa.table({"total": [total]})

    frame = sp.read_parquet(numbers).map_batches(running, batch_size=400, streaming=True)
    assert frame.to_arrow()["total"].to_pylist() == [400, 800, 1000]


def test_filter(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(2)
    assert ids(frame.filter("id % 2 = 0 OR id = 1").take_all())[:3] == [0, 1, 2]
    assert frame.filter(lambda row: row["k"] == 3).count() == 143


def test_partial_sort_sorts_within_partitions(sp: Session, numbers: str) -> None:
    parts = partitions(sp.read_parquet(numbers).repartition(2).partial_sort(["k", "id desc"]))
    for part in parts:
        assert part == sorted(part, key=lambda row: (row["k"], -row["id"]))
    assert len(parts[0]) == 500


def test_random_shuffle_keeps_rows_and_loses_order(sp: Session, numbers: str) -> None:
    found = ids(sp.read_parquet(numbers).repartition(3).random_shuffle().take_all())
    assert sorted(found) == list(range(1000))
    assert found != sorted(found)


def test_limit_and_take_are_in_partition_order(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(4)
    assert ids(frame.limit(350).take_all()) == list(range(350))
    assert ids(frame.take(5)) == list(range(5))
    assert frame.limit(0).count() == 0


def test_to_pandas_arrow_polars_and_batches(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(3)
    assert frame.to_pandas()["id"].tolist() == list(range(1000))
    assert frame.to_arrow().num_rows == 1000
    assert frame.to_polars()["id"].to_list() == list(range(1000))
    assert sum(batch.num_rows for batch in frame.iter_batches(64)) == 1000


# ---- columns and whole-frame operations ----


def test_select_with_column_drop_rename(sp: Session) -> None:
    frame = sp.from_items([{"a": 1, "b": 2}])
    assert frame.select("a", "a + b AS c").take_all() == [{"a": 1, "c": 3}]
    assert frame.with_column("c", "a * 10").take_all() == [{"a": 1, "b": 2, "c": 10}]
    assert frame.with_column("a", "a + 1").take_all() == [{"a": 2, "b": 2}]
    assert frame.drop("a").take_all() == [{"b": 2}]
    assert frame.rename({"a": "x"}).take_all() == [{"x": 1, "b": 2}]


@pytest.mark.parametrize("by", ["id desc", "s", ["k desc", "id"]])
def test_sort_is_global(sp: Session, numbers: str, by: Any) -> None:
    source = sp.read_parquet(numbers).repartition(4, hash_by="s")
    rows = source.sort(by).take_all()
    keys = {"id desc": lambda r: -r["id"], "s": lambda r: r["s"]}
    key = keys[by] if isinstance(by, str) else (lambda r: (-r["k"], r["id"]))
    assert len(rows) == 1000
    assert [key(row) for row in rows] == sorted(key(row) for row in rows)


def test_sort_puts_nulls_last_in_both_directions(sp: Session) -> None:
    frame = sp.from_items([{"a": v} for v in (3, None, 1, 2, None, 5)]).repartition(2)
    assert [row["a"] for row in frame.sort("a").take_all()] == [1, 2, 3, 5, None, None]
    assert [row["a"] for row in frame.sort("a desc").take_all()] == [5, 3, 2, 1, None, None]
    assert [row["a"] for row in frame.sort("a nulls first").take_all()] == [None, None, 1, 2, 3, 5]


def test_group_by_and_agg(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(4)
    rows = frame.group_by("k").agg("count(*) AS n", total="sum(id)", mean="avg(id)").sort("k").take_all()
    for row in rows:
        members = [i for i in range(1000) if i % 7 == row["k"]]
        assert (row["n"], row["total"], row["mean"]) == (len(members), sum(members), np.mean(members))
    assert len(rows) == 7
    assert frame.agg(n="count(*)", top="max(id)").take_all() == [{"n": 1000, "top": 999}]
    assert sorted(r["id"] for r in frame.group_by("k").max("id").take_all()) == list(range(993, 1000))
    assert frame.group_by("k").count().agg(n="sum(count)").take_all()[0]["n"] == 1000


def test_distinct(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(4)
    assert frame.distinct("k", "s").count() == 7 * 13
    assert frame.union(frame).distinct().count() == 1000


def test_union_keeps_duplicates(sp: Session, numbers: str) -> None:
    a = sp.read_parquet(numbers).repartition(4)
    b = sp.from_items([{"id": -1, "k": 0, "s": ""}])
    assert a.union(a, b).count() == 2001
    assert a.union(a).num_partitions == 4


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
def test_join(sp: Session, numbers: str, how: str, broadcast: bool) -> None:
    left = sp.read_parquet(numbers).repartition(3)
    right = sp.from_items([{"k": k, "name": f"n{k}"} for k in (0, 1, 2)]).repartition(2)
    found = Counter(row["k"] for row in left.join(right, "k", how, broadcast=broadcast).take_all())
    matched = {k for k in found if k < 3}
    expected = {"inner": (True, False), "semi": (True, False), "left": (True, True), "anti": (False, True)}[how]
    assert (len(matched) == 3, any(k >= 3 for k in found)) == expected


def test_outer_joins(sp: Session) -> None:
    a = sp.from_items([{"k": k, "a": k} for k in range(4)]).repartition(2)
    b = sp.from_items([{"k": k, "b": k} for k in range(2, 6)]).repartition(2)
    assert sorted(row["k"] for row in a.join(b, "k", "full").take_all()) == list(range(6))
    assert sorted(row["k"] for row in a.join(b, "k", "right").take_all()) == [2, 3, 4, 5]
    with pytest.raises(PlanError, match="cannot broadcast"):
        a.join(b, "k", "full", broadcast=True)


def test_schema_and_columns_without_computing(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(2, hash_by="k").map("id::DOUBLE AS x, s")
    assert frame.schema == pa.schema([("x", pa.float64()), ("s", pa.string())])
    assert not frame.is_computed()
    assert sp.from_items([1]).map(lambda row: {"y": "z"}).columns == ["y"]


def test_show_and_notebook(sp: Session, capsys: pytest.CaptureFixture[str]) -> None:
    frame = sp.from_items([{"a": 1, "b": "<x>"}])
    frame.show()
    out = capsys.readouterr().out
    assert "int64" in out
    assert "<x>" in out
    assert "plan" in frame._repr_html_()
    frame.compute()
    assert "&lt;x&gt;" in frame._repr_html_()


def test_udfs(sp: Session, numbers: str) -> None:
    @smallpond.udf(params=[smallpond.UDFType.BIGINT], return_type=smallpond.UDFType.BIGINT)
    def triple(x: int) -> int:
        return x * 3

    frame = sp.read_parquet(numbers).repartition(2).map("triple(id) AS id", udfs=[triple])
    assert ids(frame.take(3)) == [0, 3, 6]
    listed = smallpond.udf(
        params=[smallpond.UDFType.BIGINT], return_type=smallpond.UDFListType(smallpond.UDFType.BIGINT), name="pair"
    )(lambda x: [x, x])
    assert sp.from_items([7]).map("pair(item) AS p", udfs=[listed]).take_all() == [{"p": [7, 7]}]


# ---- running ----


def test_wait_runs_several_at_once(sp: Session, numbers: str, tmp_path: Path) -> None:
    frame = sp.read_parquet(numbers).repartition(2)
    sp.wait(
        frame.filter("k = 1").write_parquet_lazy(str(tmp_path / "a")),
        frame.filter("k = 2").write_parquet_lazy(str(tmp_path / "b")),
    )
    assert sp.read_parquet(str(tmp_path / "a")).count() == 143
    assert sp.read_parquet(str(tmp_path / "b")).count() == 143


def test_recompute_runs_again(sp: Session, tmp_path: Path) -> None:
    frame = sp.from_items([1]).map(counting(tmp_path / "calls"))
    frame.compute()
    frame.compute()
    assert calls(tmp_path / "calls") == 1
    frame.recompute().compute()
    assert calls(tmp_path / "calls") == 2


def counting(path: Path) -> Any:
    """A function of rows that notes each call in a file, in whichever process it runs."""
    name = str(path)

    def note(row: dict[str, Any]) -> dict[str, Any]:
        with open(name, "a") as file:
            file.write(".")
        return row

    return note


def calls(path: Path) -> int:
    return len(path.read_text()) if path.exists() else 0


def test_small_random_data_survives_any_partitioning(sp: Session) -> None:
    random.seed(3)
    values = [{"v": random.choice([None, random.randint(-5, 5)]), "w": random.random()} for _ in range(200)]
    frame = sp.from_items(values)
    for other in (frame.repartition(7), frame.repartition(3, by_rows=True), frame.repartition(4, hash_by="v")):
        assert Counter(map(repr, other.take_all())) == Counter(map(repr, values))


@pytest.mark.parametrize(
    "step",
    [
        lambda frame: frame.map(lambda row: {"b": row["a"] + 1}),
        lambda frame: frame.flat_map(lambda row: [{"b": row["a"] + 1}]),
        lambda frame: frame.map_batches(lambda table: pa.table({"b": [table["a"][0].as_py() + 1]})),
        lambda frame: frame.map_batches(lambda tables: (pa.table({"b": [2]}) for _ in tables), streaming=True),
    ],
)
def test_functions_on_empty_partitions_keep_their_columns(sp: Session, step: Any, tmp_path: Path) -> None:
    found = step(sp.from_items([{"a": 1}]).repartition(3, hash_by="a"))
    assert sp.partial_sql("SELECT b, count(*) AS n FROM {0} GROUP BY b", found).take_all() == [{"b": 2, "n": 1}]
    assert found.sort("b").take_all() == [{"b": 2}]
    found.write_parquet(str(tmp_path / "out"))
    assert sp.read_parquet(str(tmp_path / "out")).map("b + 1 AS c").take_all() == [{"c": 3}]


def test_functions_that_never_see_a_row_need_a_schema(sp: Session) -> None:
    nothing = sp.from_items([{"a": 1}]).filter("a > 1")
    with pytest.raises(QueryError, match="schema=… of map"):
        nothing.map(lambda row: {"b": row["a"]}).map("b + 1 AS c").take_all()
    assert nothing.map(lambda row: {"b": row["a"]}).take(5) == []
    told = nothing.map(lambda row: {"b": row["a"]}, schema=pa.schema([("b", pa.int64())]))
    assert told.map("b + 1 AS c").take_all() == []
    grown = nothing.map_batches(lambda table: table.append_column("b", table["a"]))
    assert grown.map("b + 1 AS c").take_all() == []
