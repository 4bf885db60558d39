"""Where partitioned records wait until their range is sorted: in memory, or in a run file a producer.

A run file is written front to back in large aligned pieces, because that is the fast path of every file system, local
or not; a range then is one read a piece. Behind the pieces lies the index: for each range, for each piece, (offset,
bytes). Only `RunFile` has to travel to whoever sorts: it has one size for any number of ranges.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from threefs.common.errors import UserError
from threefs.native.buffers import buffer
from threefs.workloads.graysort.files import opened, read_into, write_at
from threefs.workloads.graysort.records import Partitioned

ALIGNMENT: Final = 1 << 20  # where pieces begin: chunks of the cluster are multiples or divisors of it
_ENTRY: Final = np.dtype([("offset", "<u8"), ("bytes", "<u8")])


class Runs(Protocol):
    """Called by several threads at a time."""

    def append(self, piece: Partitioned) -> None: ...

    def take(self, number: int) -> list[memoryview]:
        """All records of a range, which is asked for once."""
        ...


class MemoryRuns:
    def __init__(self) -> None:
        self._pieces: list[Partitioned] = []

    def append(self, piece: Partitioned) -> None:
        self._pieces.append(piece)

    def take(self, number: int) -> list[memoryview]:
        return [piece[number] for piece in self._pieces]


@dataclass(frozen=True, slots=True)
class RunFile:
    """One producer's run file, closed."""

    path: str
    ranges: int
    pieces: int
    index_offset: int

    def size_of(self, number: int) -> int:
        with opened(Path(self.path), os.O_RDONLY) as descriptor:
            return int(self._entries(descriptor, number)["bytes"].sum())

    def read(self, number: int, out: memoryview) -> int:
        """Reads a range to the front of `out`; returns its bytes."""
        with opened(Path(self.path), os.O_RDONLY) as descriptor:
            at = 0
            for offset, size in self._entries(descriptor, number):
                read_into(descriptor, int(offset), out[at : at + int(size)])
                at += int(size)
            return at

    def _entries(self, descriptor: int, number: int) -> npt.NDArray[np.void]:
        row = self.pieces * _ENTRY.itemsize
        raw = os.pread(descriptor, row, self.index_offset + number * row)
        if len(raw) != row:
            raise UserError(f"{self.path} ends within its index", "it was cut or replaced: partition again")
        return np.frombuffer(raw, _ENTRY)


def read_range(files: list[RunFile], number: int) -> memoryview:
    """A range of all producers."""
    sizes = [file.size_of(number) for file in files]
    out = buffer(sum(sizes))
    at = 0
    for file in files:
        at += file.read(number, out[at:])
    return out


class RunWriter:
    """Writes a run file. `close` writes the index and gives the descriptor for readers."""

    def __init__(self, path: Path, ranges: int) -> None:
        self._path = path
        self._ranges = ranges
        self._lock = threading.Lock()
        self._end = 0
        self._rows: list[npt.NDArray[np.void]] = []
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def append(self, piece: Partitioned) -> None:
        assert len(piece) == self._ranges, f"piece of {len(piece)} ranges, file of {self._ranges}"
        entries = np.zeros(self._ranges, _ENTRY)
        ends = np.array(piece.ends, np.uint64)
        entries["bytes"] = np.diff(ends, prepend=np.uint64(0))
        with self._lock:
            offset = self._end
            self._end += -(-len(piece.data) // ALIGNMENT) * ALIGNMENT
            entries["offset"] = offset + ends - entries["bytes"]
            self._rows.append(entries)
        write_at(self._descriptor, offset, piece.data)

    def close(self) -> RunFile:
        index = np.stack(self._rows, axis=1) if self._rows else np.zeros((self._ranges, 0), _ENTRY)
        try:
            write_at(self._descriptor, self._end, memoryview(index.tobytes()))
        finally:
            os.close(self._descriptor)
        return RunFile(str(self._path), self._ranges, index.shape[1], self._end)

    def discard(self) -> None:
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


class FileRuns:
    """Runs of one process in one file beside its output."""

    def __init__(self, path: Path, ranges: int) -> None:
        self._writer = RunWriter(path, ranges)
        self._file: RunFile | None = None
        self._lock = threading.Lock()

    def append(self, piece: Partitioned) -> None:
        self._writer.append(piece)

    def take(self, number: int) -> list[memoryview]:
        with self._lock:
            if self._file is None:
                self._file = self._writer.close()
        return [read_range([self._file], number)]

    def remove(self) -> None:
        if self._file is None:
            self._writer.discard()
        else:
            Path(self._file.path).unlink()
