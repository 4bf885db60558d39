"""Runs in the environment of the original: hash repartition by k into 8 partitions, GROUP BY in each, written out.

python group_by.py INPUT OUTPUT DATA_ROOT -> one line of JSON: seconds of start and job, rows
"""

import json
import sys
import time

import pyarrow.parquet as parquet
import smallpond

QUERY = "select k, count(*) c, sum(x) sx, min(n) mn, max(s) ms from {0} group by k"

if __name__ == "__main__":
    source, target, root = sys.argv[1:]
    began = time.perf_counter()
    session = smallpond.init(data_root=root)
    started = time.perf_counter()
    frame = session.read_parquet(source + "/*.parquet").repartition(8, hash_by="k")
    frame = session.partial_sql(QUERY, frame)
    frame.write_parquet(target)
    ended = time.perf_counter()
    rows = parquet.read_table(target, columns=["k"]).num_rows
    print("RESULT " + json.dumps({"start_s": started - began, "job_s": ended - started, "rows": rows}))
