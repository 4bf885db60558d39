"""Workers that come while a job runs, and workers that are slow: on file queues and on Ray, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.smallpond.executors.ray_nodes import growing_cluster

import threefs.smallpond as smallpond
from threefs.smallpond.execution.policy import SpeculationPolicy
from threefs.smallpond.session import Session

# Ray's own processes and clients leave sockets to the collector.
pytestmark = [
    pytest.mark.proof,  # clusters and workers take seconds to start
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
DEADLINE = 90.0
SLOW = 600.0  # longer than any deadline: only a rival can end the job
POLICY = SpeculationPolicy(siblings_min=2, factor=2, seconds_min=0.5)
Grow = Callable[[], object]


@contextmanager
def on_filequeue(root: Path) -> Iterator[tuple[Session, Grow]]:
    """One worker of one CPU, and what starts another."""
    workers: list[subprocess.Popen[bytes]] = []

    def add_worker() -> None:
        module = "threefs.smallpond.executors.worker"
        command = [sys.executable, "-m", module, f"--queue={root / 'queue'}", "--cpus=1", f"--memory={2 << 30}"]
        workers.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}))

    add_worker()
    options = {"queue": str(root / "queue"), "speculation": POLICY}
    try:
        with smallpond.init(
            data_root=str(root / "data"), executor="filequeue", executor_options=options, progress=False
        ) as session:
            yield session, add_worker
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@contextmanager
def on_ray(root: Path) -> Iterator[tuple[Session, Grow]]:
    pytest.importorskip("ray", reason="needs the extra ray")
    with growing_cluster() as (address, add_node):
        options = {"speculation": POLICY}
        with smallpond.init(
            data_root=str(root / "data"), ray_address=address, executor_options=options, progress=False
        ) as session:
            yield session, add_node


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("place", [on_filequeue, on_ray])
def test_a_worker_joins_late_and_a_slow_one_is_raced(place: Any, tmp_path: Path) -> None:
    folder = tmp_path / "seen"
    folder.mkdir()
    here, deadline = str(folder), DEADLINE

    def meets_another(row: dict[str, Any]) -> dict[str, Any]:
        """The first one waits until another host works too. A host's processes have one parent."""
        open(os.path.join(here, str(os.getppid())), "w").close()
        end = time.monotonic() + deadline
        while len(os.listdir(here)) < 2:
            assert time.monotonic() < end, "nobody joined"
            time.sleep(0.02)
        return row

    def slow_once(row: dict[str, Any]) -> dict[str, Any]:
        if row["item"] == 0:
            try:
                os.close(os.open(f"{here}.slow", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return row
            time.sleep(SLOW)
        return row

    with place(tmp_path) as (session, grow):
        frame = session.from_items(list(range(6))).repartition(6, by_rows=True)

        counts: list[int] = []
        job = threading.Thread(target=lambda: counts.append(frame.map(meets_another).count()))
        job.start()
        wait_until(lambda: bool(os.listdir(here)) or not job.is_alive())
        grow()  # here, because Ray wants the main thread
        job.join()
        assert counts == [6]

        begin = time.monotonic()
        assert frame.map(slow_once).count() == 6
        assert time.monotonic() - begin < SLOW / 2
        assert sum(stage.speculated for stage in session.runs[-1].stages) == 1
        assert sum(stage.retried for stage in session.runs[-1].stages) == 0
