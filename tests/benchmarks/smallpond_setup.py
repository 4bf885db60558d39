"""What the comparison with the original needs, made once and kept in a cache folder: its environment, and the rows.

The folder is ~/.cache/threefs-bench, or THREEFS_BENCH_CACHE. The original is installed from the package registry with
the last DuckDB that it runs on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

CACHE = Path(os.environ.get("THREEFS_BENCH_CACHE", Path.home() / ".cache" / "threefs-bench"))
PEER = ("smallpond==0.15.0", "duckdb<1.5", "setuptools", "cffi")  # cffi: it borrows our generator and validator
FILES = 8
ROWS_PER_FILE = 5_250_000  # 42 million rows, about 1 GiB of snappy parquet


def peer_python() -> Path:
    """The interpreter of an environment with the original."""
    folder = CACHE / "smallpond-peer"
    python = folder / "bin" / "python"
    done = folder / ".complete"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
        done.touch()
    return python


def rows_folder() -> Path:
    """42 million rows in 8 parquet files: k (a million values), x, n, s (8 letters)."""
    folder = CACHE / "rows"
    for number in range(FILES):
        path = folder / f"part-{number}.parquet"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            parquet.write_table(_rows(number, ROWS_PER_FILE), fresh, compression="snappy")
            fresh.rename(path)
    return folder


def _rows(seed: int, count: int) -> pa.Table:
    random = np.random.default_rng(seed)
    letters = random.integers(97, 123, (count, 8), dtype=np.uint8)
    offsets = np.arange(count + 1, dtype=np.int32) * 8
    return pa.table(
        {
            "k": random.integers(0, 1_000_000, count),
            "x": random.random(count),
            "n": random.integers(0, 50_000, count).astype(np.int32),
            "s": pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters)),
        }
    )
