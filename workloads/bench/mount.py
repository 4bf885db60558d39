"""Through a mount: durable sequential writes, cold sequential reads, creates and stats; beside the local disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import rmtree

from threefs.workloads.bench.local import read_file, write_durable, write_three
from threefs.workloads.bench.measure import Measurement, drop_caches, median_rate


def sequential(
    mounted: Path, local: Path, size: int, *, remount: Callable[[], object], repeat: int = 3
) -> list[Measurement]:
    """Write and cold read of one file of `size` bytes. `remount` empties the mount's own caches."""
    ours, theirs = mounted / "sequential", local / "sequential"
    mib = size / 2**20
    write = median_rate(mib, lambda: write_durable(ours, size), repeat=repeat)
    three = median_rate(mib, lambda: write_three(local, size), repeat=repeat)
    write_durable(theirs, size)

    def cold() -> None:
        remount()
        drop_caches()

    read = median_rate(mib, lambda: read_file(ours), repeat=repeat, before=cold)
    ceiling = median_rate(mib, lambda: read_file(theirs), repeat=repeat, before=drop_caches)
    ours.unlink()
    return [
        Measurement("sequential write, fsync at the end", "MiB/s", write, three, "three parallel O_DIRECT writers"),
        Measurement("sequential read, cold", "MiB/s", read, ceiling, "the local file system, cold"),
    ]


def names(mounted: Path, local: Path, count: int, *, remount: Callable[[], object]) -> list[Measurement]:
    """Creates of empty files, and stats of them that the kernel does not know yet."""
    results = []
    rates: dict[str, list[float]] = {"create": [], "stat": []}
    for base in (mounted, local):
        folder = base / "names"
        folder.mkdir()
        paths = [folder / f"{number:06}" for number in range(count)]
        rates["create"].append(median_rate(count, partial(_create, paths), repeat=1))
        if base == mounted:
            remount()
        drop_caches()
        rates["stat"].append(median_rate(count, partial(_stat, paths), repeat=1))
        rmtree(folder)
    for what, text in (("create", "creates of empty files"), ("stat", "stats of fresh inodes")):
        ours, theirs = rates[what]
        results.append(Measurement(text, "1/s", ours, theirs, "the local file system"))
    return results


def _create(paths: list[Path]) -> None:
    for path in paths:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def _stat(paths: list[Path]) -> None:
    for path in paths:
        os.stat(path)
