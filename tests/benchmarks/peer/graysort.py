"""Runs in the environment of the original: generate, shuffle by the leading key bits, sort, write and check records.

    python graysort.py RECORDS FOLDER -> one line of JSON: seconds of each phase, checksums

The phases are those of the original's own benchmark: records travel as parquet with their bucket, each partition is
sorted by DuckDB and written as raw records. Generator and validator are this project's, as native as the official ones.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import smallpond

from threefs.workloads.graysort import records

PARTITIONS = 8
PIECE = 335_545  # records a task makes at a time: 32 MiB


def make(table):
    first, count = table.column("first")[0].as_py(), table.column("count")[0].as_py()
    data = np.frombuffer(records.generate(first, count), np.uint8).reshape(count, 100)
    checksum = records.summarise(memoryview(data).cast("B")).checksum
    keys = np.ascontiguousarray(data[:, :10])
    buckets = (keys[:, 0] >> 5).astype(np.uint16)  # the leading three bits: eight partitions
    columns = {
        "buckets": pa.array(buckets),
        "keys": pa.FixedSizeBinaryArray.from_buffers(pa.binary(10), count, [None, pa.py_buffer(keys)]),
        "records": pa.FixedSizeBinaryArray.from_buffers(pa.binary(100), count, [None, pa.py_buffer(data)]),
        "checksum": pa.array([str(checksum)] + ["0"] * (count - 1)),
    }
    return pa.table(columns)


def sort_to(folder):
    def sort(table):
        import duckdb

        checksum = sum(int(text) for text in table.column("checksum").to_pylist() if text != "0")
        connection = duckdb.connect()
        connection.register("unsorted", table)
        ordered = connection.execute("select records from unsorted order by keys").fetch_arrow_table()
        path = Path(folder, f"{table.column('buckets')[0].as_py():05}.dat")
        with path.open("wb") as out:
            for chunk in ordered.column("records").chunks:
                out.write(memoryview(chunk.buffers()[2])[: 100 * len(chunk)])  # binary: no gaps between the records
        return pa.table({"path": [str(path)], "made": [str(checksum)]})

    return sort


def check(table):
    path = table.column("path")[0].as_py()
    data = np.fromfile(path, np.uint8)
    found = records.summarise(memoryview(data))
    return pa.table(
        {"path": [path], "records": [found.records], "unordered": [found.unordered], "found": [str(found.checksum)]}
    )


if __name__ == "__main__":
    count, folder = int(sys.argv[1]), sys.argv[2]
    Path(folder, "sorted").mkdir()
    began = time.perf_counter()
    session = smallpond.init(data_root=str(Path(folder, "root")))
    times = {"start_s": time.perf_counter() - began}

    def done(name):
        times[name] = time.perf_counter() - began - sum(times.values())

    firsts = range(0, count, PIECE)
    tasks = session.from_items([{"first": first, "count": min(PIECE, count - first)} for first in firsts])
    made = tasks.repartition(2, by_rows=True).map_batches(make, batch_size=1)
    made.compute()
    done("generate_s")
    parts = made.repartition(PARTITIONS, by="buckets")
    parts.compute()
    done("partition_s")
    ordered = parts.map_batches(sort_to(str(Path(folder, "sorted"))), batch_size=count)
    rows = ordered.take_all()
    done("sort_s")
    checked = session.from_items([{"path": row["path"]} for row in rows]).repartition(PARTITIONS, by_rows=True)
    found = checked.map_batches(check).take_all()
    done("validate_s")
    made_sum, found_sum = sum(int(row["made"]) for row in rows), sum(int(row["found"]) for row in found)
    assert made_sum == found_sum, f"checksum {found_sum:x}, generated {made_sum:x}"
    assert sum(row["records"] for row in found) == count, found
    assert not sum(row["unordered"] for row in found), found
    job_s = sum(seconds for name, seconds in times.items() if name != "start_s")
    print("RESULT " + json.dumps(times | {"job_s": job_s, "checksum": f"{found_sum:x}"}))
