"""Sorting a file of records into another: this project's sort, or numpy's.

python sort_file.py threefs|numpy INPUT OUTPUT -> one line of JSON: seconds
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from threefs.workloads.graysort.sort import sort_file


def sort_with_numpy(source: Path, target: Path) -> None:
    records = np.fromfile(source, np.uint8).reshape(-1, 100)
    keys = np.ascontiguousarray(records[:, :8]).view(">u8").ravel().astype(np.uint64)
    records[np.argsort(keys, kind="stable")].tofile(target)


def main() -> None:
    engine, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    began = time.perf_counter()
    if engine == "numpy":
        sort_with_numpy(source, target)
    else:
        sort_file(source, target, memory_bytes=3 << 30, sync=False)
    print("RESULT " + json.dumps({"job_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
