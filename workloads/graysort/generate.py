"""`3fs graysort generate`: a file of benchmark records, with the checksum that its sorted form must have."""

from __future__ import annotations

import os
from pathlib import Path

from threefs.workloads.graysort import records
from threefs.workloads.graysort.files import Progress, in_parallel, no_progress, opened, pieces, write_at
from threefs.workloads.graysort.records import RECORD_BYTES, Summary


def generate_file(
    path: Path,
    count: int,
    *,
    start: int = 0,
    ascii_text: bool = False,
    skewed: bool = False,
    workers: int = 2,
    sync: bool = True,
    progress: Progress = no_progress,
) -> Summary:
    """Writes records start … start + count - 1 and syncs them; an existing file is replaced."""
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as descriptor:

        def make(piece: tuple[int, int]) -> Summary:
            offset, size = piece
            first = start + offset // RECORD_BYTES
            made = records.generate(first, size // RECORD_BYTES, ascii_text=ascii_text, skewed=skewed)
            write_at(descriptor, offset, made)
            progress(size)
            return records.summarise(made)

        summaries = in_parallel(make, pieces(count * RECORD_BYTES), workers)
        if sync:
            os.fsync(descriptor)
    return sum(summaries, Summary())
