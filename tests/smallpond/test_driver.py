"""The driver's flags do what they say; what plans and flags ask for in vain is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from threefs.smallpond.errors import PlanError
from threefs.smallpond.execution.driver import Driver, _config_of
from threefs.smallpond.logical.dataset import ArrowTableDataSet, DataSet
from threefs.smallpond.logical.node import (
    ArrowComputeNode,
    Context,
    DataSourceNode,
    LimitNode,
    LogicalPlan,
    LogicalPlanVisitor,
    Node,
    PythonScriptNode,
    SqlEngineNode,
)


def rows(ctx: Context) -> DataSourceNode:
    return DataSourceNode(ctx, ArrowTableDataSet(pa.table({"a": [1, 2]})))


def config_of(*arguments: str) -> Any:
    driver = Driver()
    driver.parse_arguments([*arguments, "--data_root", "/dev/null/unused"])
    return _config_of(driver.get_driver_arguments(to_dict=False))


def test_outputs_go_where_the_flag_says_and_workers_get_their_variables(tmp_path: Path) -> None:
    def variable(runtime_ctx: Any, tables: list[pa.Table]) -> pa.Table:
        import os

        return pa.table({"v": [os.environ["MINE"]], "seed": [runtime_ctx.random_seed]})

    ctx = Context()
    node = ArrowComputeNode(ctx, (rows(ctx),), process_func=variable, output_name="seen")
    driver = Driver()
    places = ["--data_root", str(tmp_path / "root"), "--output_path", str(tmp_path / "out")]
    others = ["--random_seed", "7", "--job_time", "1700000000.5", "--env_variables", "MINE=a=b"]
    driver.parse_arguments(["local", *places, *others])
    found = driver.run(LogicalPlan(ctx, node), stop_process_on_done=False).get_output("seen")
    assert found.to_arrow_table().to_pylist() == [{"v": "a=b", "seed": 7}]
    assert [Path(path).parent for path in found.resolved_paths] == [tmp_path / "out" / "seen"]


def test_flags_of_workers_and_retries_reach_the_job(tmp_path: Path) -> None:
    found = config_of("scheduler", "--num_executors", "2", "--bind_numa_node", "--malloc", "system", "--job_name", "j")
    assert (found.executor, found.num_executors, found.bind_numa_node) == ("filequeue", 2, True)
    assert (found.memory_allocator, found.job_name) == ("system", "j")
    found = config_of("ray", "--max_fail", "4", "--max_retry_count", "6", "--disable_speculative_exec")
    assert (found.executor, found.retries, found.options["losses_max"]) == ("ray", 4, 6)
    assert not found.options["speculation"].enabled
    assert config_of("--speculative_exec", "aggressive").options["speculation"].factor < 3


def test_what_nobody_understands_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PlanError, match="NAME=VALUE"):
        config_of("local", "--env_variables", "MINE")
    with pytest.raises(SystemExit):
        config_of("local", "--sidecars", "grafana")
    assert "unrecognized arguments: --sidecars" in capsys.readouterr().err
    with pytest.raises(PlanError, match=r"Mine overrides spawn\(\).*process\(\)"):
        type("Mine", (PythonScriptNode,), {"spawn": lambda self: None})


def test_visitors_may_call_what_they_override() -> None:
    class Visitor(LogicalPlanVisitor[list[str]]):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def visit_query_engine_node(self, node: Node, depth: int) -> list[str]:
            self.seen.append(f"{node.name} at {depth}")
            return super().visit_query_engine_node(node, depth)

        def visit_data_source_node(self, node: Node, depth: int) -> list[str]:
            return self.seen

    ctx = Context()
    node = SqlEngineNode(ctx, (LimitNode(ctx, rows(ctx), 1),), "SELECT * FROM {0}")
    assert Visitor().visit(node) == ["SqlEngine at 0", "Limit at 1"]


def test_data_sets_merge_and_log(caplog: pytest.LogCaptureFixture) -> None:
    first, second = (ArrowTableDataSet(pa.table({"a": [value]})) for value in (1, 2))
    merged = DataSet.merge([first, second])
    assert merged.to_arrow_table()["a"].to_pylist() == [1, 2]
    with caplog.at_level("INFO"):
        merged.log(1)
    assert "2 rows" in caplog.text
