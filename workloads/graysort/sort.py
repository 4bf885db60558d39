"""`3fs graysort sort`: a parallel external sort of benchmark records, file to file.

Two phases. Partition: pieces of the input are cut by sampled splitters into key ranges, balanced also for skewed
keys. Sort: each range is loaded, sorted and written to its final place in the output. The ranges wait in memory if
all fits, else in files beside the output. Bytes read and written: 2 n in memory, 4 n with files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from threefs.workloads.graysort import records
from threefs.workloads.graysort.files import (
    PIECE_BYTES,
    Progress,
    in_parallel,
    no_progress,
    opened,
    pieces,
    read_at,
    record_count,
    write_at,
)
from threefs.workloads.graysort.records import RECORD_BYTES
from threefs.workloads.graysort.runs import FileRuns, MemoryRuns, Runs
from threefs.workloads.graysort.splitters import SAMPLES_PER_RANGE, sample, splitters_of

_SORT_FACTOR = 2.4  # memory that sorting a range takes, in sizes of it: the range, its sorted form, its keys twice


@dataclass(frozen=True, slots=True)
class SortTimes:
    """Seconds, and how it was done."""

    partition_s: float
    sort_s: float
    partitions: int
    spilled: bool


def sort_file(
    source: Path,
    target: Path,
    *,
    memory_bytes: int = 1 << 30,
    workers: int = 2,
    sync: bool = True,
    progress: Progress = no_progress,
) -> SortTimes:
    """Sorts `source` into `target` and syncs it. On failure the target is incomplete and run files are removed."""
    size = record_count(source) * RECORD_BYTES
    spilled = size + workers * 3 * PIECE_BYTES > memory_bytes
    count = max(1, -(-size // range_bytes(memory_bytes, workers)))
    began = time.monotonic()
    with opened(source, os.O_RDONLY) as descriptor, _runs(target, count, spilled) as runs:
        splitters = splitters_of(sample(source, SAMPLES_PER_RANGE * (count - 1)), count)
        sizes = _partition(descriptor, size, splitters, runs, workers, progress)
        partitioned = time.monotonic()
        with opened(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as out:
            _sort(out, sizes, runs, workers, progress)
            if sync:
                os.fsync(out)
    return SortTimes(partitioned - began, time.monotonic() - partitioned, count, spilled)


def range_bytes(memory_bytes: int, workers: int) -> int:
    """The size of a range that `workers` can sort at the same time; a sample may be off by half of it."""
    return max(PIECE_BYTES // 4, min(PIECE_BYTES, int(memory_bytes / workers / _SORT_FACTOR / 1.5)))


@contextmanager
def _runs(target: Path, count: int, spilled: bool) -> Iterator[Runs]:
    if not spilled:
        yield MemoryRuns()
        return
    runs = FileRuns(target.with_name(f".{target.name}.runs"), count)
    try:
        yield runs
    finally:
        runs.remove()


def _partition(descriptor: int, size: int, splitters: bytes, runs: Runs, workers: int, progress: Progress) -> list[int]:
    """Cuts the input into the runs; returns the bytes of each range."""

    def cut(piece: tuple[int, int]) -> list[int]:
        parts = records.partition(read_at(descriptor, *piece), splitters)
        runs.append(parts)
        progress(piece[1])
        return [len(parts[number]) for number in range(len(parts))]

    found = in_parallel(cut, pieces(size), workers)
    return [sum(column) for column in zip(*found, strict=True)] if found else []


def _sort(descriptor: int, sizes: list[int], runs: Runs, workers: int, progress: Progress) -> None:
    """Sorts each range into its place: behind all smaller ranges."""

    def sort(job: tuple[int, int]) -> None:
        number, offset = job
        ordered = records.sort_records(runs.take(number))
        write_at(descriptor, offset, ordered)
        progress(len(ordered))

    offsets = [sum(sizes[:number]) for number in range(len(sizes))]
    in_parallel(sort, enumerate(offsets), workers)
