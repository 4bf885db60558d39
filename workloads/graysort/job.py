"""Generate, sort, validate: the whole benchmark on one folder, with the report of its phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from threefs.common.errors import UserError
from threefs.workloads.graysort.files import Progress, no_progress
from threefs.workloads.graysort.generate import generate_file
from threefs.workloads.graysort.records import RECORD_BYTES
from threefs.workloads.graysort.sort import sort_file
from threefs.workloads.graysort.validate import validate_files

Bars = Callable[[str, int], AbstractContextManager[Progress]]  # a progress bar: (title, bytes)


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    seconds: float
    bytes: int  # of records that passed

    @property
    def gb_per_s(self) -> float:
        return self.bytes / self.seconds / 1e9


@dataclass(frozen=True, slots=True)
class JobReport:
    records: int
    checksum: str
    duplicates: int
    skewed: bool
    spilled: bool
    phases: tuple[Phase, ...]

    @property
    def sort_s(self) -> float:
        """What GraySort counts: partition and sort, without generation and validation."""
        return sum(phase.seconds for phase in self.phases if phase.name in ("partition", "sort"))

    @property
    def total_s(self) -> float:
        return sum(phase.seconds for phase in self.phases)


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
    bars: Bars = no_bars,
) -> JobReport:
    """Raises UserError if the output is not the sorted input. `keep` leaves both files in `folder`."""
    size = records * RECORD_BYTES
    source, target = folder / "records.in", folder / "records.out"
    try:
        began = time.monotonic()
        with bars("generate", size) as progress:
            made = generate_file(source, records, skewed=skewed, workers=workers, progress=progress)
        generated = time.monotonic()
        with bars("sort", 2 * size) as progress:
            times = sort_file(source, target, memory_bytes=memory_bytes, workers=workers, progress=progress)
        ordered = time.monotonic()
        with bars("validate", size) as progress:
            found = validate_files([target], workers=workers, progress=progress)
        validated = time.monotonic()
    finally:
        if not keep:
            for path in (source, target):
                path.unlink(missing_ok=True)
    if found.unordered or (found.records, found.checksum) != (made.records, made.checksum):
        raise UserError(
            f"the output is wrong: {found.records} of {made.records} records, {found.unordered} unordered, "
            f"checksum {found.checksum:x}, generated {made.checksum:x}",
            "keep both files with --keep and look at them",
        )
    phases = (
        Phase("generate", generated - began, size),
        Phase("partition", times.partition_s, size),
        Phase("sort", times.sort_s, size),
        Phase("validate", validated - ordered, size),
    )
    return JobReport(records, f"{found.checksum:x}", found.duplicates, skewed, times.spilled, phases)
