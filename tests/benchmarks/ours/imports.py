"""What no session can start without, alone: python imports.py -> one line of JSON: seconds of each."""

import json
import time

if __name__ == "__main__":
    began = time.perf_counter()
    import pyarrow  # noqa: F401

    arrow = time.perf_counter()
    import duckdb  # noqa: F401

    ended = time.perf_counter()
    print("RESULT " + json.dumps({"pyarrow_s": arrow - began, "duckdb_s": ended - arrow, "job_s": ended - began}))
