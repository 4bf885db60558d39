"""GraySort as tasks that any process of any machine can run: generate, partition, sort, validate.

Each takes the number of its part and answers with a small record; bytes travel through files of the job's folder
(`Layout`), which all machines share. A task that is run again writes the same file again, so that a retry after a
crash needs no cleaning. The driver (`distributed`) only joins the answers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from threefs.workloads.graysort import records
from threefs.workloads.graysort.files import opened, pieces, read_at, record_count, write_at
from threefs.workloads.graysort.generate import generate_file
from threefs.workloads.graysort.records import KEY_BYTES, RECORD_BYTES, Summary
from threefs.workloads.graysort.runs import RunFile, RunWriter, read_range
from threefs.workloads.graysort.validate import validate_files


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the files of a job are, and how it is done."""

    folder: str
    skewed: bool = False
    sync: bool = True  # files are on stable storage when their task ends

    def source(self, number: int) -> Path:
        return Path(self.folder, f"in-{number:05}")

    def run(self, number: int) -> Path:
        return Path(self.folder, f"run-{number:05}")

    def sorted(self, number: int) -> Path:
        return Path(self.folder, f"out-{number:05}")


def generate(layout: Layout, number: int, first: int, count: int) -> Summary:
    """Writes source `number`: records first … first + count - 1."""
    return generate_file(layout.source(number), count, start=first, skewed=layout.skewed, workers=1, sync=layout.sync)


def partition(layout: Layout, number: int, splitters: bytes) -> RunFile:
    """Cuts source `number` into key ranges: one run file."""
    size = record_count(layout.source(number)) * RECORD_BYTES
    writer = RunWriter(layout.run(number), len(splitters) // KEY_BYTES + 1)
    try:
        with opened(layout.source(number), os.O_RDONLY) as descriptor:
            for piece in pieces(size):
                writer.append(records.partition(read_at(descriptor, *piece), splitters))
    except BaseException:
        writer.discard()
        raise
    return writer.close()


def sort(layout: Layout, number: int, runs: list[RunFile]) -> int:
    """Sorts range `number` of all run files into a file; returns its bytes."""
    ordered = records.sort_records([read_range(runs, number)])
    with opened(layout.sorted(number), os.O_RDWR | os.O_CREAT | os.O_TRUNC) as descriptor:
        write_at(descriptor, 0, ordered)
        if layout.sync:
            os.fsync(descriptor)
    return len(ordered)


def validate(layout: Layout, number: int) -> Summary:
    """Checks the sorted file of range `number`."""
    return validate_files([layout.sorted(number)], workers=1)
