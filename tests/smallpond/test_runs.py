"""What runs survive and what they refuse: reuse, resume, retries, limits, bad input, reports."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import threefs.smallpond as smallpond
from threefs.common.errors import Conflict, NotFound
from threefs.smallpond.errors import InfeasibleTask, PlanError, QueryError, TaskFailed, UserCodeError
from threefs.smallpond.execution.policy import SpeculationPolicy
from threefs.smallpond.executors.interface import Resources
from threefs.smallpond.report import progress
from threefs.smallpond.session import Session


def note(path: Path, what: Callable[[dict[str, Any], int], None] | None = None) -> Callable[[dict[str, Any]], Any]:
    """A function of rows that notes its calls in a file; `what(row, calls before)` may misbehave."""
    name = str(path)

    def function(row: dict[str, Any]) -> dict[str, Any]:
        before = os.path.getsize(name) if os.path.exists(name) else 0
        with open(name, "a") as file:
            file.write(".")
        if what is not None:
            what(row, before)
        return {"item": row["item"] + 1}

    return function


def calls(path: Path) -> int:
    return len(path.read_text()) if path.exists() else 0


# ---- reuse ----


def test_frames_made_from_a_computed_one_read_its_results(sp: Session, tmp_path: Path) -> None:
    frame = sp.from_items([1, 2, 3, 4]).map(note(tmp_path / "calls"))
    assert not frame.is_computed()
    frame.compute()
    assert frame.is_computed()
    assert frame.filter("item > 2").count() == 3
    assert sp.from_items([1, 2, 3, 4]).map(note(tmp_path / "calls")).count() == 4
    assert calls(tmp_path / "calls") == 4


EDITED = """
import sys, threefs.smallpond as smallpond
sp = smallpond.init(data_root=sys.argv[1])
{comment}
path = sys.argv[2]
def f(row):
    open(path, "a").write(".")
    return {{"x": row["item"] + {number}}}
print(sp.from_items([1, 2]).map(f).filter("x > 0").take_all(), len(open(path).read()))
sp.shutdown()
"""


@pytest.mark.proof  # its processes take seconds; test_an_interrupted_job_… reuses across the sessions of one
def test_other_sessions_and_edited_scripts_read_them_too(tmp_path: Path) -> None:
    edits = (("", 1), ("# an edit that changes no step", 1), ("", 2))
    scripts = [tmp_path / f"script{number}.py" for number in range(len(edits))]
    for path, (comment, number) in zip(scripts, edits, strict=True):
        path.write_text(EDITED.format(comment=comment, number=number))
    run = "import runpy, sys; [runpy.run_path(path, run_name='__main__') for path in sys.argv[3:]]"
    output = ""
    for paths in (scripts[:1], scripts[1:]):
        done = subprocess.run(
            [sys.executable, "-c", run, str(tmp_path / "root"), str(tmp_path / "calls"), *map(str, paths)],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        output += done.stdout
    assert output.splitlines() == ["[{'x': 2}, {'x': 3}] 2", "[{'x': 2}, {'x': 3}] 2", "[{'x': 3}, {'x': 4}] 4"]


def test_changed_files_are_read_again(sp: Session, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for value in (1, 2):
        pq.write_table(pa.table({"a": [value]}), path)
        assert sp.read_parquet(str(path)).map("a + 0 AS a").take_all() == [{"a": value}]


def test_an_interrupted_job_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def fail_once(row: dict[str, Any], before: int) -> None:
        if row["item"] == 3 and not os.path.exists(flag):
            open(flag, "w").close()
            raise ValueError("not yet")

    flag = str(tmp_path / "flag")
    options: dict[str, Any] = {"resources": Resources(1, 0, 1 << 30)}
    for expected in ("not yet", ""):
        with smallpond.init(data_root=str(tmp_path / "root"), job_id="j", executor_options=options) as session:
            frame = session.from_items(list(range(5))).repartition(5).map(note(tmp_path / "calls", fail_once))
            if expected:
                with pytest.raises(UserCodeError, match=expected):
                    frame.compute()
            else:
                assert [row["item"] for row in frame.take_all()] == [1, 2, 3, 4, 5]
    assert calls(tmp_path / "calls") <= 5 + 2  # the failed one again, and at most what was on its way


# ---- failures ----


def test_a_worker_that_dies_costs_one_attempt(sp: Session, tmp_path: Path) -> None:
    def die_once(row: dict[str, Any], before: int) -> None:
        if before == 0:
            os._exit(7)

    assert sp.from_items([1]).map(note(tmp_path / "calls", die_once)).take_all() == [{"item": 2}]
    assert [task.state for task in sp.runs[-1].tasks if task.worker.startswith("process")] == ["lost", "done"]


def test_a_worker_that_always_dies_ends_the_run(sp: Session) -> None:
    with pytest.raises(TaskFailed, match="worker was lost 5 times.*status 7"):
        sp.from_items([1]).map(lambda row: os._exit(7)).compute()  # type: ignore[arg-type]


def test_passing_trouble_is_tried_again_and_mistakes_are_not(sp: Session, tmp_path: Path) -> None:
    def trouble(row: dict[str, Any], before: int) -> None:
        if before == 0:
            raise ConnectionError("for a moment")

    def mistake(row: dict[str, Any], before: int) -> None:
        raise KeyError("no such column")

    assert sp.from_items([1]).map(note(tmp_path / "a", trouble)).count() == 1
    with pytest.raises(UserCodeError, match=r"raised KeyError at test_runs.py:\d+: 'no such column'"):
        sp.from_items([1]).map(note(tmp_path / "b", mistake)).compute()
    assert (calls(tmp_path / "a"), calls(tmp_path / "b")) == (2, 1)


def test_a_slow_worker_is_raced(tmp_path: Path) -> None:
    def slow_once(row: dict[str, Any], before: int) -> None:
        if row["item"] == 0 and not os.path.exists(flag):
            open(flag, "w").close()
            time.sleep(10_000)  # the test's time is over long before

    flag = str(tmp_path / "flag")
    policy = SpeculationPolicy(siblings_min=2, factor=2, seconds_min=0.5)
    options: dict[str, Any] = {"speculation": policy, "resources": Resources(2, 0, 1 << 30)}
    with smallpond.init(data_root=str(tmp_path / "root"), executor_options=options) as session:
        frame = session.from_items(list(range(4))).repartition(4).map(note(tmp_path / "calls", slow_once))
        assert frame.count() == 4
        assert sum(stage.speculated for stage in session.runs[-1].stages) >= 1  # a busy machine makes others slow, too


def test_what_can_never_fit_is_refused_at_once(sp: Session) -> None:
    begin = time.monotonic()
    for limits in ({"cpu_limit": 4096}, {"memory_limit": 1 << 50}):
        with pytest.raises(InfeasibleTask, match="Lower cpu_limit, gpu_limit or memory_limit"):
            sp.from_items([1]).map("item + 1 AS x", **limits).compute()
    with pytest.raises(InfeasibleTask, match="1 GPUs"):
        sp.from_items([1]).map(lambda row: row, gpu_limit=1).compute()
    assert time.monotonic() - begin < 100  # a host that might still come is waited for for 300 s


def test_little_memory_spills_instead_of_failing(sp: Session) -> None:
    query = "SELECT range AS a, hash(range) AS h, repeat('x', 40) AS t FROM range(1500000) ORDER BY h"
    frame = sp.partial_sql(query, memory_limit=64 << 20)
    assert frame.count() == 1_500_000


# ---- bad input ----


def test_missing_files_name_the_path(sp: Session, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere.parquet"):
        sp.read_parquet(str(tmp_path / "nowhere.parquet")).count()
    with pytest.raises(NotFound, match="no file matches"):
        sp.read_parquet(str(tmp_path / "*.parquet")).count()


def test_broken_and_mixed_files(sp: Session, tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_text("this is no parquet")
    with pytest.raises(QueryError, match=r"broken\.parquet"):
        sp.read_parquet(str(tmp_path / "broken.parquet")).count()
    folder = tmp_path / "mixed"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "1.parquet")
    pq.write_table(pa.table({"a": ["text"]}), folder / "2.parquet")
    with pytest.raises(QueryError, match="a"):
        sp.read_parquet(str(folder)).map("a + 1 AS b").compute()


def test_sql_errors_show_the_query_and_the_place(sp: Session) -> None:
    frame = sp.from_items([1])
    with pytest.raises(QueryError, match=r"(?s)test_runs.py:\d+.*nope.*SELECT nope FROM"):
        frame.map("nope").compute()
    with pytest.raises(QueryError, match="(?s)syntax error.*SELEC"):
        sp.partial_sql("SELEC 1 FROM {0}", frame).compute()
    with pytest.raises(PlanError, match=r"reads \{1\}"):
        sp.partial_sql("SELECT * FROM {0}, {1}", frame)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda frame: frame.repartition(2, hash_by="nope"), r"(?s)nope.*not found.*Candidate bindings"),
        (lambda frame: frame.repartition(2, by="nope"), r"(?s)nope.*not found"),
        (lambda frame: frame.repartition(2, by_rows=True).sort("nope"), r"(?s)nope.*not found"),
        (lambda frame: frame.group_by("nope").count(), r"(?s)nope.*not found.*GROUP BY"),
        (lambda frame: frame.join(frame, on="nope"), r'(?s)"nope" does not exist'),
        (lambda frame: frame.drop("nope"), r'(?s)"nope" in EXCLUDE list not found'),
    ],
)
def test_wrong_columns_are_named_with_the_step(sp: Session, step: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        step(sp.from_items([{"a": 1}, {"a": 2}])).take_all()
    assert "test_runs.py:" in str(caught.value)


def test_text_that_does_not_fit_its_schema_is_named(sp: Session, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("1,2\nx,3\n")
    with pytest.raises(QueryError, match=r"(?s)bad\.csv.*Line: 2"):
        sp.read_csv(str(path), schema={"a": "INTEGER", "b": "INTEGER"}).take_all()


def test_functions_that_fail_or_return_no_rows(sp: Session) -> None:
    @smallpond.udf(params=[smallpond.UDFType.BIGINT], return_type=smallpond.UDFType.BIGINT)
    def broken(x: int) -> int:
        raise ValueError("not with me")

    frame = sp.from_items([1])
    with pytest.raises(QueryError, match=r"(?s)test_runs.py:\d+.*ValueError: not with me.*broken"):
        sp.partial_sql("SELECT broken(item) FROM {0}", frame, udfs=[broken]).take_all()
    for function, given in ((lambda row: None, "NoneType"), (lambda row: "text", "str")):
        with pytest.raises(UserCodeError, match=f"returned {given}; a row is a dict of columns"):
            frame.map(function).compute()  # type: ignore[arg-type]
    with pytest.raises(UserCodeError, match="returned str, not a table or a frame"):
        frame.map_batches(lambda table: "text").compute()


def test_braces_are_just_braces(sp: Session) -> None:
    frame = sp.from_items([{"s": "aab"}])
    rows = frame.map("{'x': 1, 'y': {'z': s}} AS st, regexp_matches(s, 'a{2}') AS two, MAP {'k': 1} AS m").take_all()
    assert rows == [{"st": {"x": 1, "y": {"z": "aab"}}, "two": True, "m": [("k", 1)]}]
    assert sp.partial_sql("SELECT {{'a': 1}} AS st FROM {0}", frame).take_all() == [{"st": {"a": 1}}]


def test_what_cannot_be_sent_says_so(sp: Session, tmp_path: Path) -> None:
    with open(tmp_path / "open", "w") as file, pytest.raises(UserCodeError, match="cannot be sent to a worker"):
        sp.from_items([1]).map(lambda row: {"x": file.fileno()}).compute()


def test_a_session_that_is_shut_down_refuses(tmp_path: Path) -> None:
    session = smallpond.init(data_root=str(tmp_path))
    frame = session.from_items([1])
    session.shutdown()
    session.shutdown()
    with pytest.raises(PlanError, match="shut down"):
        frame.count()


# ---- writers ----


def test_modes(sp: Session, tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    frame = sp.from_items(list(range(10))).repartition(2)
    frame.write_parquet(target)
    frame.write_parquet(target, mode="append")
    assert sp.read_parquet(target).count() == 20
    with pytest.raises(Conflict, match="mode='overwrite'"):
        frame.write_parquet(target, mode="error")
    frame.write_parquet(target, mode="overwrite")
    assert sp.read_parquet(target).count() == 10
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_a_failed_write_leaves_nothing(sp: Session, tmp_path: Path) -> None:
    def fail(row: dict[str, Any]) -> dict[str, Any]:
        if row["item"] == 9:
            raise ValueError("the last partition fails")
        return row

    for mode in ("append", "overwrite"):
        with pytest.raises(UserCodeError, match="the last partition fails"):
            sp.from_items(list(range(10))).repartition(5).map(fail).write_parquet(str(tmp_path / "out"), mode=mode)
        assert not [name for name in os.listdir(tmp_path) if name != "out"]
        assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_csv_json_and_folders_by_key(sp: Session, tmp_path: Path) -> None:
    frame = sp.from_items([{"k": i % 3, "v": i} for i in range(12)]).repartition(2)
    frame.write_csv(str(tmp_path / "csv"))
    assert sp.read_csv(str(tmp_path / "csv")).agg(s="sum(v)").take_all() == [{"s": 66}]
    frame.write_json(str(tmp_path / "json"))
    assert sp.read_json(str(tmp_path / "json")).agg(s="sum(v)").take_all() == [{"s": 66}]
    frame.write_parquet(str(tmp_path / "hive"), partition_by="k")
    assert sorted(name for name in os.listdir(tmp_path / "hive") if "=" in name) == ["k=0", "k=1", "k=2"]
    again = sp.read_parquet(str(tmp_path / "hive"), hive_partitioning=True)
    assert again.group_by("k").agg(n="count(*)").sort("k").to_arrow()["n"].to_pylist() == [4, 4, 4]


def test_output_on_another_file_system(sp: Session, tmp_path: Path) -> None:
    there = f"/dev/shm/smallpond-test-{os.getpid()}"
    try:
        sp.from_items(list(range(5000))).map("item, repeat('x', 50) AS t").write_parquet(f"{there}/out")
        assert sp.read_parquet(f"{there}/out").count() == 5000
        with smallpond.init(data_root=f"{there}/root", progress=False) as session:
            session.read_parquet(f"{there}/out").map("item + 1 AS x").write_parquet(str(tmp_path / "out"))
        assert sp.read_parquet(str(tmp_path / "out")).count() == 5000
    finally:
        subprocess.run(["rm", "-rf", there], check=True)


FULL_DISK = """
    import os, sys, threefs.smallpond as smallpond
    place, roomy = sys.argv[1:]
    def attempt(root, target):
        with smallpond.init(data_root=root, progress=False) as sp:
            try:
                frame = sp.partial_sql("SELECT range AS a, hash(range) AS h FROM range(300000)")
                frame.write_parquet(target, mode="overwrite")
            except Exception as exc:
                print(type(exc).__name__, exc)
    attempt(f"{place}/root", f"{place}/out")
    attempt(roomy, f"{place}/out")
    attempt(roomy, roomy + "/out")
    left = [name for _, _, files in os.walk(place) for name in files if name != ".STATUS"]
    print(left, len(os.listdir(roomy + "/out")))
"""


def test_a_full_disk_says_so_and_shows_nothing_half_written(tmp_path: Path) -> None:
    small, roomy, script = tmp_path / "small", tmp_path / "roomy", tmp_path / "script.py"
    small.mkdir()
    script.write_text(textwrap.dedent(FULL_DISK))
    command = f"mount -t tmpfs -o size=1m tmpfs {small} && exec {sys.executable} {script} {small} {roomy}"
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("needs unshare and a kernel that lets it mount a small disk")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    failed, also_failed, left = done.stdout.splitlines()
    for line in (failed, also_failed):
        assert line.startswith("TaskFailed"), line
        assert "No space left on device" in line
        assert "; free space there, or on the disk of data_root" in line
    assert left == "[] 2"  # on the other disk: a file and the manifest


# ---- scale, start, reports ----


def test_a_thousand_partitions_of_one_row(sp: Session) -> None:
    frame = sp.from_items(list(range(1000))).repartition(1000, by_rows=True)
    assert frame.map(lambda row: {"x": row["item"] + 1}).agg(s="sum(x)").take_all() == [{"s": 500500}]


LIGHT = """
import sys, threefs.smallpond as smallpond
loaded = lambda: [m for m in ("duckdb", "pyarrow", "ray", "polars", "pandas") if m in sys.modules]
print(loaded())
sp = smallpond.init(data_root=sys.argv[1], progress=False)
print(loaded())
rows = sp.from_items([{"a": 1, "b": "x"}, {"a": None, "b": "y"}]).map("a + 1 AS c, b").filter("c > 0").take_all()
print(rows, loaded())
"""


def test_importing_is_light_and_a_first_query_wakes_only_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "['pyarrow']", "[{'c': 2, 'b': 'x'}] ['duckdb', 'pyarrow']"], done.stderr


def test_a_local_shuffle_has_a_producer_for_every_core(sp: Session, numbers: str) -> None:
    parts = sp.read_parquet(numbers).repartition(4, by_rows=True).map(lambda row: row)
    plan, _ = sp._job.plan(sp._ctx, [parts.repartition(3, hash_by="k").plan])
    (producers,) = (stage for stage in plan.stages if stage.kind == "exchange")
    assert producers.size == min(4, len(os.sched_getaffinity(0)))


def test_explain_and_analyze(sp: Session, numbers: str) -> None:
    frame = sp.read_parquet(numbers).repartition(2, hash_by="k").map("k, count(*) AS n")
    assert "HashPartition" in frame.filter("k > 1").explain()
    grouped = sp.partial_sql(
        "SELECT k, count(*) AS n FROM {0} GROUP BY k", sp.read_parquet(numbers).repartition(2, hash_by="k")
    )
    text = grouped.explain(analyze=True)
    assert "deals out: SELECT k" in text
    assert "7 rows" in text
    assert "CPU" in text


def test_report_graph_and_status(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    session = smallpond.init(data_root=str(tmp_path / "root"), report=str(report))
    session.from_items(["<b>"]).map("item").compute()
    assert "digraph" in Path(session.dump_graph(str(tmp_path / "graph.dot"))).read_text()
    status = session.runtime_ctx.job_status_path
    session.shutdown()
    assert "<svg" in report.read_text()
    assert "<b>" not in report.read_text()
    assert Path(status).read_text() == "success"
    assert not os.path.exists(session.runtime_ctx.temp_root)


def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    shown: list[bytes] = []
    gate = tmp_path / "gate"

    def watch() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(master, 4096):
                shown.append(data)
                if b"/4, " in b"".join(shown):
                    gate.touch()

    def waits_until_it_is_shown(row: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while row["item"] and not gate.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return row

    watcher = threading.Thread(target=watch)
    watcher.start()
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with smallpond.init(data_root=str(tmp_path)) as session:
            frame = session.from_items(list(range(4))).repartition(4, by_rows=True)
            assert frame.map(waits_until_it_is_shown).count() == 4
    watcher.join()
    os.close(master)
    text = b"".join(shown).decode()
    assert re.search(r"[1-3]/4, \d rows", text), text
    assert re.search(r"done: \d tasks in", text), text
    assert progress.progress_observer(False) is None
    assert progress.progress_observer(None) is None  # this is no terminal
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert progress.progress_observer(None) is not None
