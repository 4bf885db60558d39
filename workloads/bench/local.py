"""Ceilings of this machine: its disk without a file system of ours in between."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from threefs.native.buffers import buffer

BLOCK_BYTES = 1 << 20


def write_direct(path: Path, size: int) -> None:
    """One writer: O_DIRECT in 1 MiB blocks, fdatasync at the end."""
    block = buffer(BLOCK_BYTES)
    block[:] = os.urandom(BLOCK_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o600)
    try:
        for offset in range(0, size, BLOCK_BYTES):
            os.pwrite(descriptor, block, offset)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def write_three(folder: Path, size: int) -> None:
    """Three writers at once, each a copy of its own: what three replicas cost the disk at least."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: write_direct(folder / f"copy-{number}", size), range(3)))


def read_file(path: Path) -> int:
    """Sequential buffered reads of 1 MiB; bytes read."""
    block = buffer(BLOCK_BYTES)
    total = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while count := os.preadv(descriptor, [block], total):
            total += count
    finally:
        os.close(descriptor)
    return total


def write_durable(path: Path, size: int) -> None:
    """Sequential buffered writes of 1 MiB, fsync at the end."""
    block = os.urandom(BLOCK_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for offset in range(0, size, BLOCK_BYTES):
            os.pwrite(descriptor, block, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
