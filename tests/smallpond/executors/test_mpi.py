"""A script under the real mpirun: rank 0 drives, the others work, the script runs once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import threefs.smallpond as smallpond
from threefs.smallpond.executors.selection import default_executor, mpi_ranks

SCRIPT = """
import os, sys
import threefs.smallpond as smallpond

def double(row):
    return {"b": 2 * row["a"]}

sp = smallpond.init(data_root=sys.argv[1], progress=False)
df = sp.from_items([{"a": i} for i in range(20)]).repartition(4, by_rows=True).map(double)
total = sum(row["b"] for row in df.take_all())
hosts = {task.host for run in sp.runs for task in run.tasks if task.worker != "driver"}
print("rank", os.environ["OMPI_COMM_WORLD_RANK"], "total", total, "pids", len(hosts))
sp.shutdown()
"""


needs_mpi = pytest.mark.skipif(
    not shutil.which("mpirun") or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpirun (Debian: openmpi-bin) and the extra mpi",
)


@needs_mpi
def test_rank_0_drives_and_the_others_work(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable, str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("rank")]
    assert len(lines) == 1, done.stdout
    assert lines[0].startswith("rank 0 total 380 pids")


@needs_mpi
@pytest.mark.proof  # workers behind mpirun take seconds to start
def test_outside_of_mpirun_the_platform_starts_its_workers_with_it(tmp_path: Path) -> None:
    def ranks(row: dict[str, Any]) -> dict[str, Any]:
        return {"size": os.environ["OMPI_COMM_WORLD_SIZE"]}

    with smallpond.init(data_root=str(tmp_path), platform="mpi", num_executors=2, progress=False) as session:
        assert session.config.executor == "filequeue"
        frame = session.from_items(list(range(4))).repartition(4, by_rows=True)
        assert frame.map(ranks).take_all() == [{"size": "2"}] * 4


def test_the_platform_is_told_from_the_environment() -> None:
    assert default_executor(None, None, {}) == "local"
    assert default_executor(None, None, {"OMPI_COMM_WORLD_SIZE": "3"}) == "mpi"
    assert default_executor(None, None, {"PMI_SIZE": "1"}) == "local"
    assert default_executor("mpi", None, {}) == "mpi"
    assert default_executor(None, "10.0.0.1:6379", {"PMI_SIZE": "4"}) == "ray"
    assert default_executor(None, None, {}, 2) == default_executor("mpi", None, {}, 2) == "filequeue"
    assert mpi_ranks({"PMI_SIZE": "no number"}) == 0
