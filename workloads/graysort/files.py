"""Whole files of records on any path: a local folder or a mount. Positioned I/O in large pieces, by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from threefs.common.errors import UserError
from threefs.native.buffers import buffer
from threefs.workloads.graysort.records import RECORD_BYTES

T = TypeVar("T")
R = TypeVar("R")
PIECE_BYTES = 320_000 * RECORD_BYTES  # what one thread reads, makes or writes at a time: 32 MB

Progress = Callable[[int], None]  # called with the bytes that were done since the last call


def no_progress(_: int) -> None:
    """Says nothing."""


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A file descriptor; UserError with path and reason if it cannot be had."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise UserError(f"cannot open {path}: {exc.strerror}", "check the path and its permissions") from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def record_count(path: Path) -> int:
    """Records in a file; UserError if it is missing or ends with a part of one."""
    try:
        size = path.stat().st_size
    except OSError as exc:
        raise UserError(f"cannot read {path}: {exc.strerror}", "check the path") from exc
    count, rest = divmod(size, RECORD_BYTES)
    if rest:
        raise UserError(f"{path} has a partial record at its end ({size} bytes)", "records have 100 bytes each")
    return count


def read_at(descriptor: int, offset: int, size: int) -> memoryview:
    """Exactly `size` bytes; OSError if the file ends before."""
    out = buffer(size)
    read_into(descriptor, offset, out)
    return out


def read_into(descriptor: int, offset: int, out: memoryview) -> None:
    """Fills `out`; OSError if the file ends before."""
    done = 0
    while done < len(out):
        got = os.preadv(descriptor, [out[done:]], offset + done)
        if not got:
            raise OSError(f"file ended at {offset + done}, expected {offset + len(out)} bytes")
        done += got


def write_at(descriptor: int, offset: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def pieces(size: int) -> list[tuple[int, int]]:
    """(offset, bytes) of the pieces of a file, in order."""
    return [(offset, min(PIECE_BYTES, size - offset)) for offset in range(0, size, PIECE_BYTES)]


def in_parallel(work: Callable[[T], R], items: Iterable[T], workers: int) -> list[R]:
    """Results in order. The first failure ends it: what has not begun is dropped, and the failure raised."""
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
