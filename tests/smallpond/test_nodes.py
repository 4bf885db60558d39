"""The low-level plan API: every node, partition dimensions, streams with checkpoints, sinks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from threefs.smallpond.config import SessionConfig
from threefs.smallpond.contrib.copy_table import CopyArrowTable, StreamCopy
from threefs.smallpond.contrib.log_dataset import LogDataSet
from threefs.smallpond.errors import PlanError, UserCodeError
from threefs.smallpond.execution.driver import Driver
from threefs.smallpond.execution.execution_plan import ExecutionPlan, run_plan
from threefs.smallpond.execution.job import Job
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.execution.task import PartitionInfo, RuntimeContext
from threefs.smallpond.executors.interface import Host, Resources
from threefs.smallpond.logical.dataset import (
    ArrowTableDataSet,
    CsvDataSet,
    DataSet,
    JsonDataSet,
    ParquetDataSet,
    SqlQueryDataSet,
)
from threefs.smallpond.logical.node import (
    ArrowBatchNode,
    ArrowComputeNode,
    ArrowStreamNode,
    ConsolidateNode,
    Context,
    DataSetPartitionNode,
    DataSinkNode,
    DataSourceNode,
    EvenlyDistributedPartitionNode,
    HashPartitionNode,
    LimitNode,
    LoadPartitionedDataSetNode,
    LogicalPlan,
    LogicalPlanVisitor,
    Node,
    PandasBatchNode,
    PandasComputeNode,
    PolarsBatchNode,
    PolarsComputeNode,
    ProjectionNode,
    PythonScriptNode,
    RangePartitionNode,
    RepeatPartitionNode,
    RootNode,
    ShuffleNode,
    SqlEngineNode,
    StreamOutput,
    UnionNode,
    UserDefinedPartitionNode,
    UserPartitionedDataSourceNode,
)
from threefs.smallpond.logical.planner import Planner
from threefs.smallpond.logical.udf import UDFType


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    root = str(tmp_path_factory.mktemp("job"))
    found = Job(SessionConfig.resolve({"data_root": root, "optimize": False}, {}))
    yield found
    found.close(failed=False)


@pytest.fixture
def ctx() -> Context:
    return Context()


def source(ctx: Context, numbers: str) -> DataSourceNode:
    return DataSourceNode(ctx, ParquetDataSet([f"{numbers}/*.parquet"]))


def run(job: Job, ctx: Context, node: Node) -> ExecutionPlan:
    return run_plan(job, LogicalPlan(ctx, node))


def table(job: Job, ctx: Context, node: Node) -> pa.Table:
    found = run(job, ctx, node).final_output
    assert found is not None
    return found.to_arrow_table()


def parts(job: Job, ctx: Context, node: Node) -> list[pa.Table]:
    (found,) = job.run(ctx, [node], set())
    return [dataset.to_arrow_table() for dataset in found]


# ---- sources, SQL, limits, unions ----


def test_sources_of_every_kind(job: Job, ctx: Context, numbers: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,x\n")
    (tmp_path / "a.json").write_text('{"n": 1, "t": "x"}\n')
    types = {"n": "BIGINT", "t": "VARCHAR"}
    for dataset, rows in (
        (ParquetDataSet([f"{numbers}/*.parquet"]), 1000),
        (CsvDataSet([str(tmp_path / "a.csv")], types), 1),
        (JsonDataSet([str(tmp_path / "a.json")], types), 1),
        (SqlQueryDataSet("SELECT * FROM range(5)"), 5),
        (ArrowTableDataSet(pa.table({"a": [1, 2]})), 2),
    ):
        assert dataset.num_rows == rows
        node = SqlEngineNode(ctx, (DataSourceNode(ctx, dataset),), "SELECT count(*) AS n FROM {0}")
        assert table(job, ctx, node)["n"].to_pylist() == [rows]


def test_sql_with_several_queries_and_task_names(job: Job, ctx: Context, numbers: str) -> None:
    split = EvenlyDistributedPartitionNode(ctx, (source(ctx, numbers),), 2, dimension="half")
    node = SqlEngineNode(
        ctx,
        (split,),
        [
            "CREATE OR REPLACE TEMP TABLE few AS SELECT * FROM {0} WHERE id % 100 = 0",
            "SELECT {half} AS half, {cpu_limit} AS cpus, '{half}' AS text, count(*) AS n FROM few",
        ],
    )
    assert table(job, ctx, node).to_pylist() == [
        {"half": 0, "cpus": 1, "text": "0", "n": 5},
        {"half": 1, "cpus": 1, "text": "1", "n": 5},
    ]


def test_batched_processing_covers_all_rows(job: Job, ctx: Context, numbers: str) -> None:
    node = SqlEngineNode(
        ctx, (source(ctx, numbers),), "SELECT {batch_index} AS b, count(*) AS n FROM {0}", batched_processing=True
    )
    assert sum(table(job, ctx, node)["n"].to_pylist()) == 1000


def test_functions_of_the_context(job: Job, ctx: Context, numbers: str) -> None:
    ctx.create_function("plus_one", lambda x: x + 1, [UDFType.BIGINT], UDFType.BIGINT)
    node = SqlEngineNode(ctx, (source(ctx, numbers),), "SELECT plus_one(id) AS id FROM {0}", udfs=["plus_one"])
    assert table(job, ctx, node)["id"].to_pylist() == list(range(1, 1001))
    with pytest.raises(PlanError, match="is no function"):
        SqlEngineNode(ctx, (), "SELECT 1", udfs=["unknown"])


def test_external_modules(job: Job, ctx: Context, tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    module.write_text(
        "def create_duckdb_functions(conn):\n"
        "    conn.create_function('shout', lambda s: s.upper(), [conn.sqltype('VARCHAR')], conn.sqltype('VARCHAR'))\n"
    )
    node = SqlEngineNode(ctx, (), "SELECT shout('a') AS s", udf_module_paths=[str(module)])
    assert table(job, ctx, node)["s"].to_pylist() == ["A"]


def test_limit_union_projection(job: Job, ctx: Context, numbers: str) -> None:
    split = EvenlyDistributedPartitionNode(ctx, (source(ctx, numbers),), 3)
    assert table(job, ctx, LimitNode(ctx, split, 450))["id"].to_pylist() == list(range(450))
    assert table(job, ctx, UnionNode(ctx, (split, split))).num_rows == 2000
    shown = ProjectionNode(ctx, source(ctx, numbers), ["id", "k + 1 AS j"], ["filename", "file_row_number"])
    found = table(job, ctx, SqlEngineNode(ctx, (shown,), "SELECT * FROM {0} ORDER BY id LIMIT 2"))
    assert found.column_names == ["id", "j", "filename", "file_row_number"]
    assert found["j"].to_pylist() == [1, 2]
    other = EvenlyDistributedPartitionNode(ctx, (source(ctx, numbers),), 4)
    with pytest.raises(PlanError, match="different partitions"):
        run(job, ctx, UnionNode(ctx, (split, other)))


# ---- partitions ----


def test_partition_dimensions_nest_broadcast_and_consolidate(job: Job, ctx: Context, numbers: str) -> None:
    by_k = HashPartitionNode(ctx, (source(ctx, numbers),), 3, ["k"], dimension="hash", drop_partition_column=True)
    nested = EvenlyDistributedPartitionNode(ctx, (by_k,), 2, dimension="half", nested=True, partition_by_rows=True)
    counts = SqlEngineNode(
        ctx, (nested, by_k), "SELECT {hash} AS h, {half} AS f, count(*) AS n, (SELECT count(*) FROM {1}) AS m FROM {0}"
    )
    rows = table(job, ctx, counts).to_pylist()
    assert [(row["h"], row["f"]) for row in rows] == list(itertools.product(range(3), range(2)))
    assert sum(row["n"] for row in rows) == 1000
    for h in range(3):
        assert sum(row["n"] for row in rows if row["h"] == h) == next(row["m"] for row in rows if row["h"] == h)
    whole = ConsolidateNode(ctx, nested, ["hash"])
    assert [len(part) for part in parts(job, ctx, whole)] == [rows[2 * h]["m"] for h in range(3)]
    assert len(parts(job, ctx, ConsolidateNode(ctx, nested, []))) == 1
    with pytest.raises(PlanError, match="exists already"):
        run(job, ctx, EvenlyDistributedPartitionNode(ctx, (by_k,), 2, dimension="hash", nested=True))
    with pytest.raises(PlanError, match="dimension of its own"):
        EvenlyDistributedPartitionNode(ctx, (by_k,), 2, nested=True)


def test_repeat_and_user_partitions(job: Job, ctx: Context, numbers: str) -> None:
    repeated = RepeatPartitionNode(ctx, (source(ctx, numbers),), 3, "again")
    assert [part.num_rows for part in parts(job, ctx, repeated)] == [1000] * 3
    given = [ArrowTableDataSet(pa.table({"a": [i] * (i + 1)})) for i in range(3)]
    assert [part.num_rows for part in parts(job, ctx, UserPartitionedDataSourceNode(ctx, given))] == [1, 2, 3]

    class ByFile(UserDefinedPartitionNode):
        def partition(self, runtime_ctx: RuntimeContext, dataset: DataSet) -> list[DataSet]:
            return dataset.partition_by_files(self.npartitions)[::-1]

    found = parts(job, ctx, ByFile(ctx, (source(ctx, numbers),), 2))
    assert [part["id"][0].as_py() for part in found] == [500, 0]


@pytest.mark.parametrize("engine", ["duckdb", "arrow"])
def test_hash_partition_engines_agree(job: Job, ctx: Context, numbers: str, engine: Any) -> None:
    node = HashPartitionNode(ctx, (source(ctx, numbers),), 4, ["k", "s"], engine_type=engine)
    found = parts(job, ctx, node)
    assert [set(part["__data_partition__"].to_pylist()) <= {i} for i, part in enumerate(found)] == [True] * 4
    assert sum(part.num_rows for part in found) == 1000
    other = HashPartitionNode(ctx, (source(ctx, numbers),), 4, ["k", "s"], engine_type="duckdb")
    assert [sorted(p["id"].to_pylist()) for p in parts(job, ctx, other)] == [sorted(p["id"].to_pylist()) for p in found]


def test_shuffle_and_load_again(job: Job, ctx: Context, numbers: str) -> None:
    for kwargs in ({"use_parquet_writer": True}, {"hive_partitioning": True}):
        node = ShuffleNode(ctx, (source(ctx, numbers),), 7, "k", **kwargs)
        (found,) = job.run(ctx, [node], set())
        files = [path for dataset in found for path in dataset.resolved_paths]
        again = LoadPartitionedDataSetNode(
            ctx,
            (DataSourceNode(ctx, ParquetDataSet(files)),),
            7,
            data_partition_column="k",
            **({"hive_partitioning": True} if "hive_partitioning" in kwargs else {}),
        )
        assert [set(part["k"].to_pylist()) for part in parts(job, ctx, again)] == [{k} for k in range(7)]
    with pytest.raises(PlanError, match="belongs to partition"):
        run(
            job,
            ctx,
            LoadPartitionedDataSetNode(
                ctx, (DataSourceNode(ctx, ParquetDataSet(files)),), 3, data_partition_column="k"
            ),
        )


def test_range_partition(job: Job, ctx: Context, numbers: str) -> None:
    given = RangePartitionNode(ctx, (source(ctx, numbers),), [100, 700], column="id")
    assert [part.num_rows for part in parts(job, ctx, given)] == [100, 600, 300]
    sampled = RangePartitionNode(ctx, (source(ctx, numbers),), npartitions=4, column="id", descending=True)
    found = parts(job, ctx, sampled)
    assert [part["id"][0].as_py() for part in found] == sorted((p["id"][0].as_py() for p in found), reverse=True)
    assert all(200 <= part.num_rows <= 300 for part in found)
    with pytest.raises(PlanError, match="ascending"):
        RangePartitionNode(ctx, (source(ctx, numbers),), [3, 1])


def test_dataset_partition_node(job: Job, ctx: Context, numbers: str) -> None:
    assert len(parts(job, ctx, DataSetPartitionNode(ctx, (source(ctx, numbers),), 5, partition_by_rows=True))) == 5
    assert len(parts(job, ctx, DataSetPartitionNode(ctx, (source(ctx, numbers),), 1))) == 1


def test_random_distribution_is_random_and_whole(job: Job, ctx: Context, numbers: str) -> None:
    node = EvenlyDistributedPartitionNode(ctx, (source(ctx, numbers),), 5, random_shuffle=True)
    found = [value for part in parts(job, ctx, node) for value in part["id"].to_pylist()]
    assert sorted(found) == list(range(1000))
    assert found != sorted(found)


# ---- the user's Python ----


def test_compute_nodes(job: Job, ctx: Context, numbers: str) -> None:
    def first(runtime_ctx: RuntimeContext, tables: list[pa.Table]) -> pa.Table:
        return tables[0].slice(0, 1)

    split = EvenlyDistributedPartitionNode(ctx, (source(ctx, numbers),), 2)
    assert table(job, ctx, ArrowComputeNode(ctx, (split,), process_func=first))["id"].to_pylist() == [0, 500]
    frames = PandasComputeNode(ctx, (split,), process_func=lambda ctx, dfs: dfs[0].tail(1))
    assert table(job, ctx, frames)["id"].to_pylist() == [499, 999]
    batches = ArrowBatchNode(ctx, (split,), process_func=first, streaming_batch_size=200)
    assert table(job, ctx, batches)["id"].to_pylist() == [0, 200, 400, 500, 700, 900]
    pandas = PandasBatchNode(ctx, (split,), process_func=lambda ctx, dfs: dfs[0].head(1), streaming_batch_size=300)
    assert table(job, ctx, pandas)["id"].to_pylist() == [0, 300, 500, 800]
    polars = PolarsBatchNode(ctx, (split,), process_func=lambda ctx, dfs: dfs[0].tail(1), streaming_batch_size=300)
    assert table(job, ctx, polars)["id"].to_pylist() == [299, 499, 799, 999]
    frames = PolarsComputeNode(ctx, (split,), process_func=lambda ctx, dfs: dfs[0].lazy().tail(1))
    assert table(job, ctx, frames).drop_columns(["k"]).to_pylist() == [
        {"id": 499, "s": "text 5"},
        {"id": 999, "s": "text 11"},
    ]
    assert table(job, ctx, frames)["s"].type == pa.string()
    for copy in (CopyArrowTable(ctx, (split,)), StreamCopy(ctx, (split,))):
        assert table(job, ctx, copy)["id"].to_pylist() == list(range(1000))
    with pytest.raises(PlanError, match="nothing to run"):
        run(job, ctx, ArrowComputeNode(ctx, (split,)))


def test_a_task_that_runs_out_of_memory_gets_more(job: Job, ctx: Context, numbers: str, tmp_path: Path) -> None:
    marker = tmp_path / "tried"

    def hungry(runtime_ctx: TaskContext, tables: list[pa.Table]) -> pa.Table:
        if not marker.exists():
            marker.touch()
            raise MemoryError("more, please")
        return pa.table({"limit": [runtime_ctx.memory_limit]})

    node = ArrowComputeNode(ctx, (source(ctx, numbers),), process_func=hungry, memory_limit=64 << 20)
    assert table(job, ctx, node)["limit"].to_pylist() == [128 << 20]
    assert [task.state for task in job.runs[-1].tasks if task.worker != "driver"] == ["out of memory", "done"]


def test_scripts_write_files(job: Job, ctx: Context, numbers: str) -> None:
    def count(runtime_ctx: RuntimeContext, datasets: list[DataSet], output_path: str) -> bool:
        with open(os.path.join(output_path, "count.txt"), "w") as file:
            file.write(str(datasets[0].num_rows))
        return True

    found = run(job, ctx, PythonScriptNode(ctx, (source(ctx, numbers),), process_func=count, output_name="counts"))
    (path,) = found.get_output("counts").resolved_paths
    assert Path(path).read_text() == "1000"
    with pytest.raises(UserCodeError, match="returned False"):
        run(job, ctx, PythonScriptNode(ctx, (source(ctx, numbers),), process_func=lambda *_: False))
    run(job, ctx, LogDataSet(ctx, (source(ctx, numbers),), num_rows=2))


def test_streams_go_on_from_their_checkpoint(job: Job, ctx: Context, numbers: str, tmp_path: Path) -> None:
    seen = str(tmp_path / "seen")

    class Fragile(ArrowStreamNode):
        def process(self, runtime_ctx: RuntimeContext, readers: list[Any]) -> Iterator[StreamOutput]:
            for batch in readers[0]:
                first = batch.column("id")[0].as_py()
                with open(seen, "a") as file:
                    file.write(f"{first} ")
                if first == 600 and Path(seen).read_text().count("600 ") == 1:
                    raise ConnectionError("the first attempt ends here")
                yield StreamOutput(pa.Table.from_batches([batch]), [first // 100], force_checkpoint=True)

    node = Fragile(ctx, (source(ctx, numbers),), streaming_batch_size=100, background_io_thread=False)
    assert table(job, ctx, node)["id"].to_pylist() == list(range(1000))
    assert Path(seen).read_text().split() == [str(i) for i in [0, 100, 200, 300, 400, 500, 600, 600, 700, 800, 900]]


# ---- sinks, plans, driver ----


@pytest.mark.parametrize("kind", ["link", "copy", "link_or_copy", "manifest"])
def test_sinks(job: Job, ctx: Context, numbers: str, tmp_path: Path, kind: Any) -> None:
    target = tmp_path / "out"
    split = EvenlyDistributedPartitionNode(ctx, (source(ctx, numbers),), 4)
    doubled = SqlEngineNode(ctx, (split,), "SELECT id * 2 AS id FROM {0}")
    for times in (1, 2):
        run(job, ctx, DataSinkNode(ctx, (doubled,), str(target), type=kind))
        listed = (target / ".MANIFEST.txt").read_text().split()
        assert ParquetDataSet(listed).num_rows == 1000
        if kind != "manifest":
            assert ParquetDataSet([str(target)]).num_rows == 1000 * times  # added to, never mixed up
    assert not list(target.glob(".staging*"))


def test_outputs_by_name_and_metadata(job: Job, ctx: Context, numbers: str) -> None:
    split = HashPartitionNode(ctx, (source(ctx, numbers),), 2, ["k"], dimension="h")
    node = SqlEngineNode(ctx, (split,), "SELECT *, repeat('x', 1000) AS x FROM {0}", output_name="wide")
    found = run(job, ctx, RootNode(ctx, (node,)))
    assert found.successful
    wide = found.get_output("wide")
    assert wide.num_rows == 1000
    metadata = pq.read_metadata(wide.resolved_paths[1]).metadata
    assert metadata[b"SMALLPOND:h"] == b"1"
    with pytest.raises(Exception, match="no output named"):
        found.get_output("other")
    with pytest.raises(PlanError, match="letters, digits"):
        SqlEngineNode(ctx, (split,), "SELECT 1", output_name="a b")


def test_plans_are_shown_walked_and_planned(job: Job, ctx: Context, numbers: str) -> None:
    node = SqlEngineNode(ctx, (EvenlyDistributedPartitionNode(ctx, (source(ctx, numbers),), 2),), "SELECT 1 FROM {0}")
    plan = LogicalPlan(ctx, RootNode(ctx, (node, node)))
    assert "(see above)" in plan.explain_str()
    assert len(plan.nodes) == 4
    assert "digraph" in plan.graph()

    class Names(LogicalPlanVisitor[str]):
        def visit_query_engine_node(self, node: Node, depth: int) -> str:
            return f"sql at {depth}"

    assert Names().visit(plan.root_node) == "sql at 1"
    stages = Planner(job.context).create_exec_plan(plan).stages
    assert [stage.size for stage in stages] == [1, 2]


def test_partition_info() -> None:
    assert str(PartitionInfo(1, 3, "h")) == "h[1/3]"
    assert PartitionInfo().dimension == PartitionInfo.toplevel_dimension


def test_driver_runs_a_plan_with_arguments(ctx: Context, numbers: str, tmp_path: Path) -> None:
    driver = Driver()
    driver.add_argument("-i", "--input", required=True)
    user, mine = driver.parse_arguments(
        [
            "scheduler",
            "-i",
            numbers,
            "--data_root",
            str(tmp_path / "root"),
            "--fault_inject_prob",
            "0.8",  # of ten tasks, none fails once in ten million runs, and one fails a hundred times as rarely
            "--max_fail_count",
            "100",
        ]
    )
    assert user == {"input": numbers}
    assert mine["fault_inject_prob"] == 0.8
    split = EvenlyDistributedPartitionNode(ctx, (source(ctx, user["input"]),), 10)
    node = SqlEngineNode(ctx, (split,), "SELECT count(*) AS n FROM {0}")
    found = driver.run(LogicalPlan(ctx, node), stop_process_on_done=False)
    assert found.final_output is not None
    assert found.final_output.to_arrow_table()["n"].to_pylist() == [100] * 10
    assert any(record.state == "failed" for record in found.record.tasks)


def test_a_host_that_joins_with_a_little_less_memory_can_run_the_tasks(job: Job, ctx: Context, numbers: str) -> None:
    """Ray counts what is free when a node starts: the second of two equal nodes has less."""
    first, second = Resources(1, 0.0, 24_135_892_992), Resources(1, 0.0, 23_905_632_256)  # as Ray said once
    plan = LogicalPlan(ctx, SqlEngineNode(ctx, (source(ctx, numbers),), "SELECT 1 FROM {0}"))
    (stage,) = Planner(job.context, [Host("first", first)]).create_exec_plan(plan).stages
    assert second.covers(stage.request)
