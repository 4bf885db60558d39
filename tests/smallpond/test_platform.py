"""Platforms: workers and scripts that they start, defaults, allocators, NUMA nodes; what cannot be had is refused."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import threefs.smallpond as smallpond
from threefs.smallpond.config import SessionConfig
from threefs.smallpond.errors import PlanError
from threefs.smallpond.executors import numa
from threefs.smallpond.executors.selection import local_ranks
from threefs.smallpond.platform import MPI, Platform, get_platform

MODULE = """
import json, os
from threefs.smallpond.platform import Platform

class Here(Platform):
    def start_job(self, num_nodes, entrypoint, args, envs=None, extra_opts=None):
        with open(os.environ["STARTED"], "w") as file:
            json.dump([num_nodes, os.path.basename(entrypoint), dict(extra_opts or {})], file)
        return super().start_job(num_nodes, entrypoint, [*args, "--cpus=1"], envs, extra_opts)

    @staticmethod
    def default_data_root():
        return os.environ["PLACE"]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_platform.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    monkeypatch.delitem(sys.modules, "my_platform", raising=False)
    return "my_platform"


def test_a_module_of_the_user_starts_workers_and_has_defaults(module: str, tmp_path: Path) -> None:
    with smallpond.init(platform=module, num_executors=1, job_name="mine", queue="fast", progress=False) as session:
        assert session.config.data_root == str(tmp_path / "place")
        assert session.config.executor == "filequeue"
        frame = session.from_items(list(range(4))).repartition(1, by_rows=True)
        assert [row["pid"] for row in frame.map(lambda row: {"pid": os.getpid() > 0}).take_all()] == [True] * 4
    started = (tmp_path / "started").read_text()
    assert started == '[1, "start_worker.py", {"queue": "fast", "job_name": "mine"}]'


BROKEN = """
from threefs.smallpond.platform import Platform

class Broken(Platform):
    def start_job(self, num_nodes, entrypoint, args, envs=None, extra_opts=None):
        return super().start_job(num_nodes, entrypoint + ".missing", args, envs, extra_opts)
"""


def test_workers_that_do_not_start_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_platform.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    root = str(tmp_path / "root")
    with smallpond.init(data_root=root, platform="broken_platform", num_executors=2, progress=False) as session:
        begin = time.monotonic()
        with pytest.raises(PlanError, match="Broken started 2, which ended with status 2, 2"):
            session.from_items([1]).map("item + 1 AS x").compute()
        assert time.monotonic() - begin < 25  # it would have waited for 30 s, and then for five minutes


SPAWNED = """
import sys
import threefs.smallpond as smallpond
sp = smallpond.init(progress=False)
with open(sys.argv[1], "a") as file:
    file.write(f"{sp.config.job_id} {sp.config.data_root}\\n")
"""


def test_sp_spawn_starts_the_script_as_a_job_and_ends(tmp_path: Path) -> None:
    script, noted = tmp_path / "script.py", tmp_path / "noted"
    script.write_text(SPAWNED)
    os.mkfifo(noted)
    environment = {"SP_SPAWN": "1", "SP_JOBID": "abc", "SP_DATA_ROOT": str(tmp_path / "root")}
    done = subprocess.Popen(
        [sys.executable, str(script), str(noted)],
        env={**os.environ, **environment, "PYTHONPATH": ":".join(sys.path)},
        stderr=subprocess.PIPE,
    )
    assert noted.read_text() == f"abc {tmp_path / 'root'}\n"  # one script wrote: the job, and it did not spawn again
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors
    assert b"job abc is started" in errors


def test_platforms_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(get_platform()) is Platform
    assert isinstance(get_platform("mpi"), MPI)
    with pytest.raises(PlanError, match="no platform 'nowhere_to_be_found'"):
        get_platform("nowhere_to_be_found")
    with pytest.raises(PlanError, match="must define one subclass"):
        get_platform("json")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PlanError, match="mpirun, which is not on the path"):
        MPI().start_job(1, "script.py", [])


def test_what_nobody_understands_is_refused() -> None:
    with pytest.raises(PlanError, match="no argument frobnicate"):
        smallpond.init(frobnicate=1)
    with pytest.raises(PlanError, match="below 0"):
        smallpond.init(num_executors=-1)
    with pytest.raises(PlanError, match="is no number"):
        SessionConfig.resolve({}, {"SP_NUM_EXECUTORS": "many"})


def test_every_variable_of_the_environment_wins(tmp_path: Path) -> None:
    environment = {
        "SP_JOBID": "j",
        "SP_JOB_TIME": "2026-01-31T12:00:00",
        "SP_JOB_NAME": "n",
        "SP_DATA_ROOT": str(tmp_path),
        "SP_NUM_EXECUTORS": "3",
        "SP_RAY_ADDRESS": "there:1",
        "SP_BIND_NUMA_NODE": "1",
        "SP_MEMORY_ALLOCATOR": "system",
        "SP_PLATFORM": "local",
    }
    given: dict[str, Any] = {
        "job_id": "no",
        "num_executors": 1,
        "bind_numa_node": False,
        "memory_allocator": "mimalloc",
    }
    found = SessionConfig.resolve(given, environment)
    assert (found.job_id, found.job_time.isoformat(), found.job_name) == ("j", "2026-01-31T12:00:00", "n")
    assert (found.data_root, found.num_executors, found.ray_address) == (str(tmp_path), 3, "there:1")
    assert (found.bind_numa_node, found.memory_allocator, found.platform) == (True, "system", "local")
    assert found.executor == "ray"


def test_workers_get_the_allocator_and_bind_themselves(tmp_path: Path) -> None:
    def seen(row: dict[str, Any]) -> dict[str, Any]:
        import pyarrow

        return {"pool": pyarrow.default_memory_pool().backend_name, "bound": os.environ[numa.VARIABLE]}

    with smallpond.init(
        data_root=str(tmp_path), memory_allocator="system", bind_numa_node=True, progress=False
    ) as session:
        assert session.from_items([1]).map(seen).take_all() == [{"pool": "system", "bound": "1"}]


def test_allocators_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with smallpond.init(data_root=str(tmp_path), memory_allocator="fastmalloc", progress=False) as session:
        with pytest.raises(PlanError, match="none of system, jemalloc, mimalloc"):
            session.from_items([1]).count()
    with smallpond.init(data_root=str(tmp_path), executor="ray", bind_numa_node=True, progress=False) as session:
        with pytest.raises(PlanError, match="numactl"):
            session.from_items([1]).count()


def test_numa_nodes_are_taken_in_turn(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert numa.parse_list("0-2,8\n") == {0, 1, 2, 8}
    assert numa.numa_nodes(tmp_path) == {}
    for number, text in enumerate((f"{cores[0]}", f"{cores[-1]}-{cores[-1]}", "4000")):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(text + "\n")
    nodes = numa.numa_nodes(tmp_path)
    assert nodes == {0: {cores[0]}, 1: {cores[-1]}}  # the third has no core for this process
    assert numa.bind_in_turn(1, {0: {cores[0]}}) is None
    child = os.fork()
    if not child:
        bound = numa.bind_in_turn(3, nodes)
        os._exit(0 if (bound, os.sched_getaffinity(0)) == (1, {cores[-1]}) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_ranks_of_a_host_share_it() -> None:
    assert local_ranks({}) == 1
    assert local_ranks({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}) == 4


def test_the_base_install_has_no_engine_and_no_ray() -> None:
    """Each is behind an extra; `smallpond` alone brings neither Ray nor MPI."""
    wanted: dict[str, set[str]] = {}
    for line in importlib.metadata.requires("threefs") or []:
        need, _, condition = line.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", condition)
        name = re.match(r"[\w.-]+", need)
        assert name is not None
        wanted.setdefault(extra[1] if extra else "", set()).add(name[0])
    assert not wanted[""] & {"ray", "duckdb", "polars", "pandas", "mpi4py"}
    assert {"duckdb", "polars", "pandas"} <= wanted["smallpond"]
    assert not wanted["smallpond"] & {"ray", "mpi4py"}
    assert "ray" in wanted["ray"]
    assert "mpi4py" in wanted["mpi"]


def test_a_missing_engine_is_told_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smallpond, "ENGINES", ("duckdb", "no_such_engine"))
    with pytest.raises(PlanError, match=r"needs no_such_engine: .*threefs\[smallpond\]"):
        smallpond.init()
