"""Jobs of smallpond as programs of their own, so that a test can kill them. Functions are `__main__`'s on purpose.

python -m tests.cluster.smallpond_jobs graysort FOLDER RECORDS local|ray[:ADDRESS]
python -m tests.cluster.smallpond_jobs group_by ROWS OUTPUT DATA_ROOT
python -m tests.cluster.smallpond_jobs gated FOLDER DATA_ROOT

The last line that they print is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import threefs.smallpond as smallpond
from threefs.workloads.graysort.distributed import SmallpondCrew, run_tasks
from threefs.workloads.graysort.tasks import Layout

GATED = 8  # partitions, of which the second half waits for the gate
GATE_SECONDS_MAX = 120.0


def graysort(folder: str, records: str, engine: str) -> dict[str, Any]:
    executor, _, address = engine.partition(":")
    root = Path(folder, "root")
    session = smallpond.init(data_root=str(root), executor=executor, ray_address=address or None, progress=False)
    with session:
        report = run_tasks(SmallpondCrew(session), Layout(folder), int(records), workers=2, memory_bytes=64 << 20)
        tasks = [task for run in session.runs for task in run.tasks if task.worker != "driver"]
        return {
            "records": report.records,
            "checksum": report.checksum,
            "hosts": sorted({task.host for task in tasks}),
            "lost": sum(task.state == "lost" for task in tasks),
        }


def group_by(rows: str, output: str, root: str) -> dict[str, Any]:
    with smallpond.init(data_root=root, progress=False) as session:
        frame = session.read_parquet(rows).repartition(4, hash_by="k")
        frame = session.partial_sql("SELECT k, count(*) AS c, sum(x) AS s FROM {0} GROUP BY k", frame)
        frame.write_parquet(output, mode="overwrite")
        found = session.read_parquet(output)
        return {"rows": found.count(), "c": int(found.agg(c="sum(c)").take_all()[0]["c"])}


def gated(folder: str, root: str) -> dict[str, Any]:
    """Every call leaves `call.ITEM.PID`; the later ones wait until somebody makes `gate`."""

    def work(row: dict[str, Any]) -> dict[str, Any]:
        Path(folder, f"call.{row['item']}.{os.getpid()}").touch()
        deadline = time.monotonic() + GATE_SECONDS_MAX
        while row["item"] >= GATED // 2 and not os.path.exists(os.path.join(folder, "gate")):
            assert time.monotonic() < deadline, "nobody opened the gate"
            time.sleep(0.02)
        return {"item": row["item"] + 1}

    with smallpond.init(data_root=root, job_id="gated", progress=False) as session:
        frame = session.from_items(list(range(GATED))).repartition(GATED, by_rows=True).map(work)
        return {"items": [row["item"] for row in frame.take_all()]}


if __name__ == "__main__":
    job = {"graysort": graysort, "group_by": group_by, "gated": gated}[sys.argv[1]]
    print(json.dumps(job(*sys.argv[2:])))
