"""The analyser on a large trace: seconds, memory, and megabytes a second."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

pytestmark = pytest.mark.bench

SOURCE = Path(__file__).parents[1] / "compute_kernels" / "overlap" / "data" / "moe_rank0.json.gz"
BYTES = 500_000_000
SECONDS_MAX, MEMORY_MAX = 60, 2 << 30


def write_large(path: Path) -> int:
    """A recorded trace repeated, one second later each time, until it is large enough; gives the events."""
    trace = msgspec.json.decode(gzip.decompress(SOURCE.read_bytes()))
    events = trace.pop("traceEvents")
    count = 0
    with path.open("wb") as file:
        file.write(msgspec.json.encode(trace)[:-1] + b',"traceEvents":[')
        while file.tell() < BYTES:
            if count:
                file.write(b",")
            for event in events:
                event["ts"] += 1e6
                if "correlation" in event["args"]:
                    event["args"]["correlation"] += 10**6
            file.write(msgspec.json.format(msgspec.json.encode(events), indent=2)[1:-1])
            count += len(events)
        file.write(b"]}")
    return count


def test_half_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    count = write_large(path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "threefs.compute_kernels.overlap", str(path)], check=True, capture_output=True
    )
    seconds = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    memory = used.ru_maxrss * 1024
    megabytes = path.stat().st_size / 1e6
    print(
        f"\n{megabytes:.0f} MB, {count:,} events: {seconds:.1f} s, {processor:.1f} s of one processor"
        f" ({megabytes / processor:.0f} MB/s), {memory / 2**20:.0f} MiB at most"
    )
    path.unlink()
    assert processor < SECONDS_MAX  # what an idle machine takes: the analyser uses one core
    assert memory < MEMORY_MAX
