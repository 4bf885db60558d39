"""Generate, sort, validate: the whole benchmark on one folder, with the report of its phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from threefs.workloads.graysort.files import Progress, no_progress
from threefs.workloads.graysort.generate import generate_file
from threefs.workloads.graysort.records import RECORD_BYTES
from threefs.workloads.graysort.report import JobReport, Phase, checked
from threefs.workloads.graysort.sort import sort_file
from threefs.workloads.graysort.validate import validate_files

Bars = Callable[[str, int], AbstractContextManager[Progress]]  # a progress bar: (title, bytes)


@contextmanager
def no_bars(title: str, total_bytes: int) -> Iterator[Progress]:
    """Shows nothing."""
    yield no_progress


def run_job(
    folder: Path,
    records: int,
    *,
    skewed: bool = False,
    workers: int = 2,
    memory_bytes: int = 1 << 30,
    keep: bool = False,
    sync: bool = True,
    bars: Bars = no_bars,
) -> JobReport:
    """Raises UserError if the output is not the sorted input. `keep` leaves both files in `folder`.

    `sync`: both files are on stable storage when their phase ends.
    """
    size = records * RECORD_BYTES
    source, target = folder / "records.in", folder / "records.out"
    try:
        began = time.monotonic()
        with bars("generate", size) as progress:
            made = generate_file(source, records, skewed=skewed, workers=workers, sync=sync, progress=progress)
        generated = time.monotonic()
        with bars("sort", 2 * size) as progress:
            times = sort_file(source, target, memory_bytes=memory_bytes, workers=workers, sync=sync, progress=progress)
        ordered = time.monotonic()
        with bars("validate", size) as progress:
            found = validate_files([target], workers=workers, progress=progress)
        validated = time.monotonic()
    finally:
        if not keep:
            for path in (source, target):
                path.unlink(missing_ok=True)
    phases = (
        Phase("generate", generated - began, size),
        Phase("partition", times.partition_s, size),
        Phase("sort", times.sort_s, size),
        Phase("validate", validated - ordered, size),
    )
    return checked(made, found, skewed=skewed, spilled=times.spilled, phases=phases)
