"""`3fs dev demo`: from nothing to sorted and validated records on a mounted cluster, and nothing left behind."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree

from threefs.cli.dev.cluster import DevCluster, open_or_create
from threefs.cli.graysort_commands import print_report
from threefs.cli.output import progress_bar, say
from threefs.cli.status import show_status
from threefs.workloads.graysort.job import run_job


def run_demo(records: int, folder: Path | None) -> None:
    """Raises UserError if the sort does not validate; stops the cluster and removes its folder in any case."""
    with ExitStack() as cleaning:
        base = (folder or Path(tempfile.mkdtemp(prefix="3fs-demo-"))).resolve()
        cleaning.callback(rmtree, base, ignore_errors=True)
        cluster = _start(base)
        cleaning.callback(cluster.down)
        show_status(cluster.folder, "", False)
        job = Path(cluster.spec.mount) / "graysort"
        job.mkdir()
        say(f"sorting {records:,} records ({records / 1e7:.2f} GB) in {job}")
        print_report(run_job(job, records, bars=progress_bar))
    say("the cluster is stopped and removed; try one of your own: .venv/bin/3fs dev up --dir DIR --mount PATH")


def _start(base: Path) -> DevCluster:
    began = time.monotonic()
    mount = base / "mount"
    cluster = open_or_create(
        base / "cluster",
        kv="embedded",
        mgmtds=1,
        metas=1,
        storages=3,
        replicas=3,
        chains=6,
        mount=str(mount),
        chunk_bytes=1 << 20,
    )
    cluster.up()
    say(f"mgmtd, meta and 3 storage daemons serve, mounted at {mount}, after {time.monotonic() - began:.1f} s")
    return cluster
