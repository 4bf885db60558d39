"""Hash repartition by k into 8 partitions, GROUP BY in each, written out: the same program as the original's.

python group_by.py INPUT OUTPUT DATA_ROOT optimized|plain -> one line of JSON: seconds of start and job, rows
"""

from __future__ import annotations

import json
import sys
import time

import pyarrow.dataset as dataset

import threefs.smallpond as smallpond

QUERY = "select k, count(*) c, sum(x) sx, min(n) mn, max(s) ms from {0} group by k"


def main() -> None:
    source, target, root, mode = sys.argv[1:]
    began = time.perf_counter()
    session = smallpond.init(data_root=root, optimize=mode == "optimized", progress=False)
    started = time.perf_counter()
    frame = session.read_parquet(source + "/*.parquet").repartition(8, hash_by="k")
    frame = session.partial_sql(QUERY, frame)
    frame.write_parquet(target)
    ended = time.perf_counter()
    session.shutdown()
    rows = dataset.dataset(target, format="parquet").count_rows()
    print("RESULT " + json.dumps({"start_s": started - began, "job_s": ended - started, "rows": rows}))


if __name__ == "__main__":
    main()
