"""`3fs graysort sort`: a parallel external sort of benchmark records, file to file.

Two phases. Partition: pieces of the input are cut by sampled splitters into key ranges, balanced also for skewed
keys. Sort: each range is loaded, sorted and written to its final place in the output. The ranges wait in memory if
all fits, else in files beside the output. Bytes read and written: 2 n in memory, 4 n with files.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Protocol

from threefs.native.buffers import buffer
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
from threefs.workloads.graysort.records import KEY_BYTES, RECORD_BYTES

SAMPLES_PER_PARTITION = 256  # ranges stay within about ± 20 % of the mean
_SAMPLED_PIECES = 16
_SORT_FACTOR = 2.4  # memory that sorting a range takes, in sizes of it: the range, its sorted form, the keys


@dataclass(frozen=True, slots=True)
class SortTimes:
    """Seconds, and how it was done."""

    partition_s: float
    sort_s: float
    partitions: int
    spilled: bool


class Runs(Protocol):
    """Where the ranges wait between the phases."""

    def append(self, partition: int, piece: memoryview) -> None: ...

    def take(self, partition: int) -> memoryview:
        """The whole range, which is then forgotten."""
        ...


class MemoryRuns:
    def __init__(self, partitions: int) -> None:
        self._pieces: list[list[memoryview]] = [[] for _ in range(partitions)]

    def append(self, partition: int, piece: memoryview) -> None:
        self._pieces[partition].append(piece)

    def take(self, partition: int) -> memoryview:
        found, self._pieces[partition] = self._pieces[partition], []
        joined = buffer(sum(map(len, found)))
        start = 0
        for piece in found:
            joined[start : start + len(piece)] = piece
            start += len(piece)
        return joined


class FileRuns:
    """One file a range; pieces get their place under a lock and are written without it."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._paths = [folder / f"{number:05}.run" for number in range(partitions)]
        self._sizes = [0] * partitions
        self._lock = threading.Lock()

    def append(self, partition: int, piece: memoryview) -> None:
        with self._lock:
            offset = self._sizes[partition]
            self._sizes[partition] += len(piece)
        if len(piece):
            with opened(self._paths[partition], os.O_WRONLY | os.O_CREAT) as descriptor:
                write_at(descriptor, offset, piece)

    def take(self, partition: int) -> memoryview:
        if not self._sizes[partition]:
            return buffer(0)
        with opened(self._paths[partition], os.O_RDONLY) as descriptor:
            found = read_at(descriptor, 0, self._sizes[partition])
        self._paths[partition].unlink()
        return found


def sort_file(
    source: Path,
    target: Path,
    *,
    memory_bytes: int = 1 << 30,
    workers: int = 2,
    progress: Progress = no_progress,
) -> SortTimes:
    """Sorts `source` into `target` and syncs it. On failure the target is incomplete and run files are removed."""
    size = record_count(source) * RECORD_BYTES
    spilled = size * 2 + workers * 2 * PIECE_BYTES > memory_bytes
    range_bytes = max(PIECE_BYTES // 4, min(PIECE_BYTES, int(memory_bytes / workers / _SORT_FACTOR / 1.5)))
    count = max(1, -(-size // range_bytes))
    began = time.monotonic()
    with opened(source, os.O_RDONLY) as descriptor, _runs(target, count, spilled) as runs:
        splitters = sample_splitters(descriptor, size, count)
        sizes = _partition(descriptor, size, splitters, runs, workers, progress)
        partitioned = time.monotonic()
        with opened(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as out:
            _sort(out, sizes, runs, workers, progress)
            os.fsync(out)
    return SortTimes(partitioned - began, time.monotonic() - partitioned, count, spilled)


@contextmanager
def _runs(target: Path, count: int, spilled: bool) -> Iterator[Runs]:
    if not spilled:
        yield MemoryRuns(count)
        return
    folder = target.with_name(f".{target.name}.runs")
    folder.mkdir(exist_ok=True)
    try:
        yield FileRuns(folder, count)
    finally:
        rmtree(folder)


def sample_splitters(descriptor: int, size: int, partitions: int) -> bytes:
    """partitions - 1 sorted keys that cut the file's keys into about equal ranges, from samples spread over it."""
    wanted = SAMPLES_PER_PARTITION * partitions
    per_piece = -(-wanted // _SAMPLED_PIECES)
    stretch = min(per_piece * RECORD_BYTES, size)
    keys: list[bytes] = []
    for number in range(_SAMPLED_PIECES if partitions > 1 else 0):
        offset = (size - stretch) // RECORD_BYTES * number // max(1, _SAMPLED_PIECES - 1) * RECORD_BYTES
        found = read_at(descriptor, offset, stretch)
        keys += [bytes(found[at : at + KEY_BYTES]) for at in range(0, len(found), RECORD_BYTES)]
    keys.sort()
    return b"".join(keys[len(keys) * number // partitions] for number in range(1, partitions))


def _partition(descriptor: int, size: int, splitters: bytes, runs: Runs, workers: int, progress: Progress) -> list[int]:
    """Cuts the input into the runs; returns the bytes of each range."""

    def cut(piece: tuple[int, int]) -> list[int]:
        parts = records.partition(read_at(descriptor, *piece), splitters)
        for number, part in enumerate(parts):
            runs.append(number, part)
        progress(piece[1])
        return [len(part) for part in parts]

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
