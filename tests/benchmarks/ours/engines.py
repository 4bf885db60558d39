"""The same GROUP BY by engines alone, without a framework: what one machine can do at best.

python engines.py duckdb|polars INPUT OUTPUT -> one line of JSON: seconds, rows
"""

from __future__ import annotations

import json
import sys
import time

import pyarrow.parquet as parquet


def by_duckdb(source: str, target: str) -> None:
    import duckdb

    query = "select k, count(*) c, sum(x) sx, min(n) mn, max(s) ms from read_parquet(?) group by k"
    duckdb.execute(f"copy ({query}) to '{target}' (format parquet)", [source + "/*.parquet"])


def by_polars(source: str, target: str) -> None:
    import polars

    frame = polars.scan_parquet(source + "/*.parquet").group_by("k")
    columns = [polars.len(), polars.sum("x"), polars.min("n"), polars.max("s")]
    frame.agg(columns).sink_parquet(target)


def main() -> None:
    engine, source, target = sys.argv[1:]
    began = time.perf_counter()
    {"duckdb": by_duckdb, "polars": by_polars}[engine](source, target)
    ended = time.perf_counter()
    rows = parquet.read_metadata(target).num_rows
    print("RESULT " + json.dumps({"job_s": ended - began, "rows": rows}))


if __name__ == "__main__":
    main()
