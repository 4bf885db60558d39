"""`3fs graysort validate`: is a file, or a row of files, in order, and what is its checksum."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from threefs.workloads.graysort import records
from threefs.workloads.graysort.files import (
    Progress,
    in_parallel,
    no_progress,
    opened,
    pieces,
    read_at,
    record_count,
)
from threefs.workloads.graysort.records import RECORD_BYTES, Summary


def validate_files(paths: Sequence[Path], *, workers: int = 2, progress: Progress = no_progress) -> Summary:
    """The summary of the files one after the other; sorted if its `unordered` is 0."""
    return sum((_validate(path, workers, progress) for path in paths), Summary())


def _validate(path: Path, workers: int, progress: Progress) -> Summary:
    size = record_count(path) * RECORD_BYTES
    with opened(path, os.O_RDONLY) as descriptor:

        def check(piece: tuple[int, int]) -> Summary:
            summary = records.summarise(read_at(descriptor, *piece))
            progress(piece[1])
            return summary

        return sum(in_parallel(check, pieces(size), workers), Summary())


def verdict(summary: Summary) -> list[str]:
    """The lines in which the official tool says it."""
    lines = [f"Records: {summary.records}", f"Checksum: {summary.checksum:x}"]
    if summary.unordered:
        lines.insert(0, f"First unordered record is record {summary.first_unordered}")
        return [*lines, f"ERROR - there are {summary.unordered} unordered records"]
    if not summary.records:
        return [*lines, "ERROR - there are no records"]
    return [*lines, f"Duplicate keys: {summary.duplicates}", "SUCCESS - all records are in order"]
