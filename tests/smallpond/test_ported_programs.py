"""Programs as they are written for smallpond 0.15, run with nothing changed but the import.

Each uses the calls of one example of its README, its documentation or its examples folder, in their order and with
their arguments: the quick start, the guide to data frames, a pipeline of nodes with a driver, sorting of URLs in both
styles, shuffling of rows, and a test of a file system.
"""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PROGRAMS = {
    "quick start": """
import smallpond

session = smallpond.init()
frame = session.read_parquet("in.parquet")
frame = frame.repartition(3, hash_by="host")
frame = session.partial_sql("SELECT host, min(n) AS low, max(n) AS high FROM {0} GROUP BY host", frame)
frame.write_parquet("out/")
RESULT = sorted(map(tuple, frame.to_pandas().values.tolist()))
session.shutdown()
""",
    "guide": """
import smallpond

session = smallpond.init(data_root="root", num_executors=0)
frame = session.read_parquet("*.parquet")
by_files, by_rows = frame.repartition(3), frame.repartition(3, by_rows=True)
by_hash = frame.repartition(3, hash_by="host").map("host, n + 1 AS m")
rows = by_rows.map(lambda row: {"c": row["n"] * 2}).filter("c > 0").filter(lambda row: row["c"] < 8)
many = rows.flat_map(lambda row: [row, row]).map_batches(lambda table: table.slice(0, 1), batch_size=2)
by_hash.write_parquet("path/to/output")
RESULT = (by_files.count(), by_hash.count(), rows.take_all(), many.count(), by_rows.limit(1).take(5)[0]["n"])
session.wait(by_files.write_parquet_lazy("one"), by_rows.random_shuffle().write_parquet_lazy("two"))
session.shutdown()
""",
    "pipeline": """
from smallpond.execution.driver import Driver
from smallpond.logical.dataset import ParquetDataSet
from smallpond.logical.node import Context, DataSetPartitionNode, DataSourceNode, LogicalPlan, SqlEngineNode

def pipeline(input_paths, npartitions):
    ctx = Context()
    node = DataSourceNode(ctx, ParquetDataSet(input_paths))
    node = DataSetPartitionNode(ctx, (node,), npartitions=npartitions)
    node = SqlEngineNode(ctx, (node,), "SELECT * FROM {0}")
    return LogicalPlan(ctx, node)

driver = Driver()
driver.add_argument("-i", "--input_paths", nargs="+")
driver.add_argument("-n", "--npartitions", type=int, default=10)
RESULT = driver.run(pipeline(**driver.get_arguments()), stop_process_on_done=False).final_output.num_rows
""",
    "sorted urls, by frames": r"""
import smallpond
from smallpond.dataframe import Session

def sort_urls(session: Session, paths, output, npartitions):
    rows = session.read_csv(paths, schema={"urlstr": "varchar", "valstr": "varchar"}, delim=r"\t")
    urls = rows.repartition(npartitions).map(
        "split_part(urlstr, '/', 1) AS host, split_part(urlstr, ' ', 1) AS url, from_base64(valstr) AS payload"
    )
    urls = urls.repartition(npartitions, hash_by="host").partial_sort(by=["host"])
    urls.write_parquet(output)
    return urls

session = smallpond.init()
RESULT = sorted((row["host"], row["payload"]) for row in sort_urls(session, ["urls*.tsv"], "sorted", 2).take_all())
session.shutdown()
""",
    "sorted urls, by nodes": r"""
import os
from collections import OrderedDict
from smallpond.execution.driver import Driver
from smallpond.execution.task import RuntimeContext
from smallpond.logical.dataset import CsvDataSet
from smallpond.logical.node import (
    ArrowComputeNode, Context, DataSetPartitionNode, DataSinkNode, DataSourceNode, HashPartitionNode, LogicalPlan,
    SqlEngineNode,
)

class Sort(ArrowComputeNode):
    def process(self, runtime_ctx: RuntimeContext, input_tables):
        return input_tables[0].sort_by("host")

def plan(paths, engine, output):
    ctx = Context()
    schema = OrderedDict([("urlstr", "varchar"), ("valstr", "varchar")])
    source = DataSourceNode(ctx, CsvDataSet(paths, schema=schema, delim=r"\t"))
    split = DataSetPartitionNode(ctx, (source,), npartitions=2)
    query = "select split_part(urlstr, '/', 1) as host, from_base64(valstr) as payload from {0}"
    urls = SqlEngineNode(ctx, (split,), query, output_name="urls", output_path=output)
    parts = HashPartitionNode(
        ctx, (urls,), npartitions=2, hash_columns=["host"], engine_type=engine, output_name="parts", output_path=output
    )
    if engine == "duckdb":
        ordered = SqlEngineNode(ctx, (parts,), r"select * from {0} order by host", output_name="ordered")
    else:
        ordered = Sort(ctx, (parts,), output_name="ordered", output_path=output)
    final = DataSetPartitionNode(ctx, (ordered,), npartitions=1)
    final = DataSinkNode(ctx, (final,), output_path=os.path.join(output, "data_sink"))
    return LogicalPlan(ctx, final)

RESULT = []
for engine in ("duckdb", "arrow"):
    driver = Driver()
    driver.add_argument("-i", "--input_paths", nargs="+")
    made = plan(driver.get_arguments()["input_paths"], engine, os.path.abspath(engine))
    done = driver.run(made, stop_process_on_done=False)
    hosts = done.get_output("ordered").to_arrow_table()["host"].to_pylist()
    RESULT.append((done.successful, sorted(hosts), len(os.listdir(os.path.join(engine, "data_sink"))) > 0))
""",
    "shuffled rows": """
from smallpond.contrib.copy_table import StreamCopy
from smallpond.execution.driver import Driver
from smallpond.logical.dataset import ParquetDataSet
from smallpond.logical.node import (
    Context, DataSetPartitionNode, DataSourceNode, HashPartitionNode, LogicalPlan, SqlEngineNode,
)

ctx = Context()
source = DataSourceNode(ctx, ParquetDataSet(["in.parquet"], union_by_name=True))
split = DataSetPartitionNode(ctx, (source,), npartitions=2, partition_by_rows=True, random_shuffle=False)
spread = HashPartitionNode(ctx, (split,), npartitions=3, hash_columns=None, random_shuffle=True, engine_type="arrow")
query = r"select *, cast(random() * 2147483647 as integer) as sort_key from {0} order by sort_key"
mixed = SqlEngineNode(ctx, (spread,), query, cpu_limit=1)
again = DataSetPartitionNode(ctx, (mixed,), npartitions=2, partition_by_rows=True)
copied = StreamCopy(ctx, (again,), output_name="data_copy", cpu_limit=1)
done = Driver().run(LogicalPlan(ctx, copied), stop_process_on_done=False)
table = done.get_output("data_copy").to_arrow_table()
RESULT = (sorted(table["n"].to_pylist()), "sort_key" in table.column_names)
""",
    "file system": """
import glob, os, time
import smallpond

def write(path, size):
    begin = time.time()
    with open(path, "wb") as file:
        file.write(bytes(size))
    return {"path": path, "size": size, "elapsed(s)": time.time() - begin}

def read(path):
    with open(path, "rb") as file:
        return {"path": path, "read": len(file.read())}

session = smallpond.init()
os.makedirs("files", exist_ok=True)
frame = session.from_items([{"path": os.path.join(os.path.abspath("files"), f"{i}")} for i in range(3)])
written = frame.repartition(3, by_rows=True).map(lambda x: write(x["path"], 1000)).to_pandas()
paths = glob.glob(os.path.abspath("files/*"))
frame = session.from_items([{"path": path} for path in paths]).repartition(len(paths), by_rows=True)
RESULT = (int(written["size"].sum()), frame.map(lambda x: read(x["path"])).to_pandas()["read"].tolist())
session.shutdown()
""",
}
HOSTS = ["a.com", "a.com", "b.org", "c.net", "c.net"]
PAYLOADS = [(host, f"p{number}".encode()) for number, host in enumerate(HOSTS)]
EXPECTED = {
    "quick start": [("a.com", 0, 1), ("b.org", 2, 2), ("c.net", 3, 4)],
    "guide": (5, 5, [{"c": 2}, {"c": 4}, {"c": 6}], 3, 0),
    "pipeline": 5,
    "sorted urls, by frames": PAYLOADS,
    "sorted urls, by nodes": [(True, HOSTS, True)] * 2,
    "shuffled rows": ([0, 1, 2, 3, 4], True),
    "file system": (3000, [1000] * 3),
}
ARGUMENTS = {"pipeline": ["-i", "in.parquet", "-n", "2"], "sorted urls, by nodes": ["-i", "urls0.tsv", "urls1.tsv"]}


LONG = ("sorted urls, by nodes", "shuffled rows", "file system")  # worker processes of their own: make proof


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.proof] if n in LONG else []) for n in PROGRAMS])
def test_a_program_runs_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SP_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["program.py", "scheduler", *ARGUMENTS.get(name, [])])
    pq.write_table(pa.table({"host": HOSTS, "n": range(5)}), "in.parquet")
    lines = [f"{host}/x y\t{base64.b64encode(payload).decode()}\n" for host, payload in PAYLOADS]
    for part in (0, 1):
        Path(f"urls{part}.tsv").write_text("".join(lines[part::2]))
    code = re.sub(r"\bimport smallpond\b", "import threefs.smallpond as smallpond", PROGRAMS[name])
    code = re.sub(r"\bfrom smallpond\.", "from threefs.smallpond.", code)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), names)
    assert names["RESULT"] == EXPECTED[name]
