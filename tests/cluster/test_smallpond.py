"""smallpond on a real cluster: GraySort and GROUP BY on the mount and by URL, and what dies in the middle of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.cluster.smallpond_jobs import GATED
from tests.mount.memory import wait_until

from threefs.cli.dev.bootstrap import all_serving
from threefs.cli.dev.cluster import DevCluster
from threefs.cli.entry import run_async
from threefs.cli.status import fetch_routing
from threefs.workloads.graysort import records

pytestmark = [pytest.mark.cluster, pytest.mark.mount, pytest.mark.proof]

StartCluster = Callable[..., DevCluster]
Fsck = Callable[[DevCluster], None]
REPOSITORY = Path(__file__).parents[2]
RECORDS = int(os.environ.get("THREEFS_TEST_RECORDS", "600000"))  # 60 MB; 10737418 are the GiB of the benchmark
ROWS = 400_000


def _start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.smallpond_jobs", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "RAY_DEDUP_LOGS": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _result(job: subprocess.Popen[str], seconds: float = 240) -> dict[str, Any]:
    output, errors = job.communicate(timeout=seconds)
    assert job.returncode == 0, errors
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@contextmanager
def _running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A job that is dead afterwards, whatever happens."""
    job = _start(*arguments)
    try:
        yield job
    finally:
        job.kill()
        job.communicate()


def _checksum() -> str:
    step = 1_000_000
    parts = range(0, RECORDS, step)
    total = sum(records.summarise(records.generate(at, min(step, RECORDS - at))).checksum for at in parts)
    return f"{total:x}"


def _serving(cluster: DevCluster) -> bool:
    return all_serving(run_async(fetch_routing(cluster.spec.mgmtd_addresses())))


def _kill_daemon(cluster: DevCluster, name: str) -> None:
    pid = cluster.process(cluster.spec.daemon(name)).pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _write_rows(folder: Path) -> None:
    folder.mkdir()
    for part in range(4):
        ids = range(part * ROWS // 4, (part + 1) * ROWS // 4)
        pq.write_table(
            pa.table({"k": [i % 1000 for i in ids], "x": [float(i) for i in ids]}), folder / f"{part}.parquet"
        )


def _check_sums(table: pa.Table) -> None:
    """x goes from 0 to ROWS - 1 and k is its remainder by 1000."""
    count = ROWS // 1000
    expected = {k: (count, float(count * k + 1000 * (count * (count - 1) // 2))) for k in range(1000)}
    assert {row["k"]: (row["c"], row["s"]) for row in table.to_pylist()} == expected


def test_jobs_on_the_mount_and_by_url(start_cluster: StartCluster, fsck: Fsck) -> None:
    cluster = start_cluster(mount=True)
    mount = Path(cluster.spec.mount)
    (mount / "sort").mkdir()
    found = _result(_start("graysort", mount / "sort", RECORDS, "local"))
    assert (found["records"], found["checksum"]) == (RECORDS, _checksum())
    _write_rows(mount / "rows")
    mgmtd = ",".join(cluster.spec.mgmtd_addresses())
    for rows, output in ((mount / "rows", mount / "out"), ("3fs:///rows/*.parquet", "3fs:///out-by-url")):
        job = _start("group_by", rows, output, mount / "root", THREEFS_MGMTD=mgmtd)
        assert _result(job) == {"rows": 1000, "c": ROWS}
    for name in ("out", "out-by-url"):
        _check_sums(pq.read_table(mount / name))
    fsck(cluster)


def test_a_storage_daemon_dies_in_the_middle(start_cluster: StartCluster, fsck: Fsck) -> None:
    cluster = start_cluster(mount=True)
    folder = Path(cluster.spec.mount) / "sort"
    folder.mkdir()
    with _running("graysort", folder, RECORDS, "local") as job:
        wait_until(lambda: any(folder.glob("run-*")), "the partition phase begins")
        _kill_daemon(cluster, "storage-2")
        found = _result(job)
    assert (found["records"], found["checksum"]) == (RECORDS, _checksum())
    cluster.restart("storage-2")
    wait_until(lambda: _serving(cluster), "storage-2 is back")
    fsck(cluster)


def _calls(folder: Path) -> list[tuple[int, int]]:
    """(item, pid of the worker) of the calls so far."""
    return sorted((int(path.name.split(".")[1]), int(path.name.split(".")[2])) for path in folder.glob("call.*"))


def _waiting(folder: Path) -> list[int]:
    return [pid for item, pid in _calls(folder) if item >= GATED // 2]


def test_a_worker_and_then_the_driver_are_killed(start_cluster: StartCluster, fsck: Fsck) -> None:
    cluster = start_cluster(mount=True)
    folder = Path(cluster.spec.mount) / "gated"
    folder.mkdir()
    root = Path(cluster.spec.mount) / "root"
    early = set(range(GATED // 2))
    with _running("gated", folder, root) as job:
        wait_until(lambda: early <= {item for item, _ in _calls(folder)} and _waiting(folder), "half of it is done")
        victim = _waiting(folder)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: set(_waiting(folder)) - {victim}, "another worker takes over")
        job.kill()
        job.wait()
    before = _calls(folder)
    (folder / "gate").touch()
    assert _result(_start("gated", folder, root)) == {"items": list(range(1, GATED + 1))}
    again = {item for item, _ in set(_calls(folder)) - set(before)}
    assert not again & early, f"{again & early} were done before the driver died, and done again"
    fsck(cluster)


def test_all_nodes_of_a_ray_cluster_sort_on_the_mount(start_cluster: StartCluster, fsck: Fsck) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    from tests.smallpond.executors.ray_nodes import two_nodes

    cluster = start_cluster(mount=True)
    folder = Path(cluster.spec.mount) / "sort"
    folder.mkdir()
    with two_nodes() as address, _running("graysort", folder, RECORDS, f"ray:{address}") as job:
        found = _result(job)
    assert (found["records"], found["checksum"]) == (RECORDS, _checksum())
    assert len(found["hosts"]) == 2
    fsck(cluster)
