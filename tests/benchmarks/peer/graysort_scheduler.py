"""The job of graysort.py on the original's built-in scheduler, the faster of its two: one static plan, on this host.

    python graysort_scheduler.py RECORDS FOLDER -> one line of JSON: seconds of each phase, checksum

It renders its plan with Graphviz and fails without: a `dot` that does nothing is put on the path, and costs nothing.
Where phases begin and end is told by the time stamps of files that the tasks touch.
"""

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
from graysort import PARTITIONS, PIECE, check, make, sort_to
from smallpond.execution.driver import Driver
from smallpond.logical.dataset import ArrowTableDataSet
from smallpond.logical.node import (
    ArrowBatchNode,
    ArrowComputeNode,
    Context,
    DataSetPartitionNode,
    DataSourceNode,
    LogicalPlan,
    ShuffleNode,
)


def noted(folder, name, function):
    """Touches `name.begin` once, and `name.end` after every call."""

    def call(runtime_ctx, tables):
        begin = Path(folder, f"{name}.begin")
        if not begin.exists():
            begin.touch()
        found = function(tables[0])
        Path(folder, f"{name}.end").touch()
        return found

    return call


def plan_of(count, folder):
    ctx = Context()
    firsts = range(0, count, PIECE)
    pieces = pa.table({"first": list(firsts), "count": [min(PIECE, count - first) for first in firsts]})
    source = DataSetPartitionNode(
        ctx, (DataSourceNode(ctx, ArrowTableDataSet(pieces)),), npartitions=2, partition_by_rows=True
    )
    made = ArrowBatchNode(ctx, (source,), process_func=noted(folder, "make", make), streaming_batch_size=1)
    parts = ShuffleNode(ctx, (made,), npartitions=PARTITIONS, data_partition_column="buckets", cpu_limit=2)
    ordered = ArrowComputeNode(
        ctx, (parts,), process_func=noted(folder, "sort", sort_to(str(Path(folder, "sorted")))), output_name="sorted"
    )
    checked = ArrowComputeNode(ctx, (ordered,), process_func=noted(folder, "check", check), output_name="checked")
    return LogicalPlan(ctx, checked)


def main():
    count, folder = int(sys.argv[1]), sys.argv[2]
    Path(folder, "sorted").mkdir()
    tools = Path(folder, "tools")
    tools.mkdir()
    Path(tools, "dot").write_text("#!/bin/sh\nexit 0\n")
    Path(tools, "dot").chmod(0o755)
    os.environ["PATH"] = f"{tools}:{os.environ['PATH']}"
    options = ["--num_executors", "0", "--malloc", "system", "--memory_purge_delay", "10000"]
    driver = Driver()
    driver.parse_arguments(["scheduler", "--data_root", str(Path(folder, "root")), *options])
    began = time.time()
    done = driver.run(plan_of(count, folder), stop_process_on_done=False)
    ended = time.time()
    assert done.successful, "the original's job failed"
    made = done.get_output("sorted").to_arrow_table().to_pylist()
    found = done.get_output("checked").to_arrow_table().to_pylist()
    made_sum, found_sum = sum(int(row["made"]) for row in made), sum(int(row["found"]) for row in found)
    assert made_sum == found_sum, f"checksum {found_sum:x}, generated {made_sum:x}"
    assert sum(row["records"] for row in found) == count, found
    assert not sum(row["unordered"] for row in found), found
    at = {name: os.stat(Path(folder, name)).st_mtime for name in ("make.end", "sort.begin", "sort.end")}
    borders = [began, at["make.end"], at["sort.begin"], at["sort.end"], ended]
    names = ("generate_s", "partition_s", "sort_s", "validate_s")
    times = {name: after - before for name, before, after in zip(names, borders[:-1], borders[1:], strict=True)}
    print("RESULT " + json.dumps(times | {"job_s": ended - began, "checksum": f"{found_sum:x}"}))


if __name__ == "__main__":
    main()
