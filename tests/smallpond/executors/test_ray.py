"""Sessions on a Ray cluster of two nodes that run on this machine: placement, deaths, failures, limits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.smallpond.executors.ray_nodes import two_nodes

import threefs.smallpond as smallpond
from threefs.smallpond.errors import SMALLPOND_ERRORS, InfeasibleTask
from threefs.smallpond.session import Session

# Ray's own processes and clients leave sockets to the collector.
pytestmark = [
    pytest.mark.proof,  # two nodes take some 20 s to start
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
pytest.importorskip("ray", reason="needs the extra ray")


@pytest.fixture(scope="module")
def sp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with two_nodes() as address:
        session = smallpond.init(data_root=str(tmp_path_factory.mktemp("data")), ray_address=address, progress=False)
        yield session
        session.shutdown()


def frame(sp: Session, rows: int, parts: int) -> Any:
    return sp.from_items([{"a": i} for i in range(rows)]).repartition(parts, by_rows=True)


def test_all_nodes_get_work(sp: Session, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def meets_the_other_node(row: dict[str, Any]) -> dict[str, Any]:
        import ray

        open(os.path.join(folder, ray.get_runtime_context().get_node_id()), "w").close()
        deadline = time.monotonic() + 60  # a node of one CPU is busy until then: the next task must go to the other
        while len(os.listdir(folder)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        return {"b": 2 * row["a"]}

    assert sum(row["b"] for row in frame(sp, 4, 4).map(meets_the_other_node).take_all()) == 12
    nodes = {host.name for host in sp._job.executor.hosts()}
    assert len(nodes) == 2
    assert set(os.listdir(folder)) == nodes
    assert {task.host for task in sp.runs[-1].tasks if task.worker != "driver"} <= nodes


def test_a_worker_that_is_killed_costs_one_attempt(sp: Session, tmp_path: Path) -> None:
    marker = str(tmp_path / "died")

    def dies_once(row: dict[str, Any]) -> dict[str, Any]:
        if row["a"] == 3 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    rows = frame(sp, 6, 3).map(dies_once).take_all()
    assert [row["a"] for row in rows] == list(range(6))
    assert "lost" in {task.state for task in sp.runs[-1].tasks}


def test_an_exception_names_itself_and_the_step(sp: Session) -> None:
    def fails(row: dict[str, Any]) -> dict[str, Any]:
        raise ValueError(f"row {row['a']} is not to my taste")

    with pytest.raises(SMALLPOND_ERRORS, match="row 0 is not to my taste"):
        frame(sp, 1, 1).map(fails).take_all()


def test_a_task_that_fits_no_node_is_rejected_at_once(sp: Session) -> None:
    begin = time.monotonic()
    with pytest.raises(InfeasibleTask, match="Lower cpu_limit"):
        frame(sp, 4, 2).map("a + 1 as b", cpu_limit=64).take_all()
    assert time.monotonic() - begin < 10
