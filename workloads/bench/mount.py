"""Through a mount: durable sequential writes, cold sequential reads, creates and stats; beside the local disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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


def names(
    mounted: Path, local: Path, count: int, *, remount: Callable[[], object], processes: int = 1
) -> list[Measurement]:
    """Creates of empty files in one directory, and stats of them that the kernel does not know yet: each by so many
    processes at a time, one file after the other."""
    creates, stats = [], []
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        list(pool.map(_nothing, range(processes)))  # they start here
        for base in (mounted, local):
            folder = base / f"names-{processes}"
            folder.mkdir()
            paths = [f"{folder}/{number:06}" for number in range(count)]
            creates.append(_rate(pool, _create, paths, processes))
            if base == mounted:
                remount()
            drop_caches()
            stats.append(_rate(pool, _stat, paths, processes))
            rmtree(folder)
    who = "1 process" if processes == 1 else f"{processes} processes"
    return [
        Measurement(f"creates of empty files, {who}", "1/s", creates[0], creates[1], "the local file system"),
        Measurement(f"stats of fresh inodes, {who}", "1/s", stats[0], stats[1], "the local file system"),
    ]


def _rate(pool: ProcessPoolExecutor, work: Callable[[list[str]], None], paths: list[str], processes: int) -> float:
    shares = [paths[first::processes] for first in range(processes)]
    return median_rate(len(paths), lambda: list(pool.map(work, shares)), repeat=1)


def _nothing(number: int) -> None:
    """What a process does to be there."""


def _create(paths: list[str]) -> None:
    for path in paths:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def _stat(paths: list[str]) -> None:
    for path in paths:
        os.stat(path)
