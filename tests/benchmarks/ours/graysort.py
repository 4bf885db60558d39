"""GraySort as the peer does it: generated, partitioned, sorted, written and validated.

python graysort.py RECORDS FOLDER local|threads [skewed] -> one line of JSON: seconds of each phase, checksum
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from threefs.workloads.graysort.distributed import run_on_smallpond
from threefs.workloads.graysort.job import run_job

MEMORY_BYTES = 1 << 30


def main() -> None:
    count, folder, engine = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    run = run_job if engine == "threads" else run_on_smallpond
    report = run(folder, count, skewed="skewed" in sys.argv[4:], memory_bytes=MEMORY_BYTES, sync=False)
    times = {f"{phase.name}_s": phase.seconds for phase in report.phases}
    print(
        "RESULT " + json.dumps(times | {"job_s": report.total_s, "both_s": report.sort_s, "checksum": report.checksum})
    )


if __name__ == "__main__":
    main()
