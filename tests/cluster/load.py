"""A verified write load: every acknowledged write is remembered, and found again at the end.

A writer is a process of its own: a process that has files of a mount open cannot start the daemon which that mount
waits for, because starting one closes the inherited descriptors, and closing a file waits for the mount.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random

BLOCK = 64 << 10
FILE_BLOCKS = 64
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Journal:
    """What one writer did."""

    name: str
    acknowledged: dict[int, int] = field(default_factory=dict)  # block → generation that was acknowledged last
    attempted: dict[int, int] = field(default_factory=dict)  # block → newest generation that was tried
    longest_pause_s: float = 0.0
    error: str = ""

    def content(self, block: int, generation: int) -> bytes:
        return Random(f"{self.name}/{block}/{generation}").randbytes(64) * (BLOCK // 64)


def _work(path: str, seed: int, writes: Synchronized[int], stop: Event, answer: Connection) -> None:
    """Overwrites random blocks of one file, each followed by fdatasync, until it is told to stop or fails."""
    journal, random = Journal(os.path.basename(path)), Random(seed)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        while not stop.is_set():
            block = random.randrange(FILE_BLOCKS)
            generation = journal.attempted[block] = journal.attempted.get(block, 0) + 1
            began = time.monotonic()
            os.pwrite(descriptor, journal.content(block, generation), block * BLOCK)
            os.fdatasync(descriptor)
            journal.longest_pause_s = max(journal.longest_pause_s, time.monotonic() - began)
            journal.acknowledged[block] = generation
            writes.value += 1
        os.close(descriptor)
    except OSError as exc:
        journal.error = f"{type(exc).__name__}: {exc}"
        writes.value = -1
    answer.send(journal)


class Writer:
    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self._writes: Synchronized[int] = _SPAWN.Value("q", 0)
        self._stop = _SPAWN.Event()
        self._answer, other = _SPAWN.Pipe(duplex=False)
        arguments = (str(path), seed, self._writes, self._stop, other)
        self._process = _SPAWN.Process(target=_work, args=arguments, daemon=True)

    def start(self) -> None:
        self._process.start()

    @property
    def writes(self) -> int:
        """Acknowledged so far. AssertionError if the writer failed."""
        count = self._writes.value
        assert count >= 0, f"a write to {self.path.name} failed: {self._receive().error}"
        return count

    def _receive(self) -> Journal:
        assert self._answer.poll(150), f"the writer of {self.path.name} hangs"
        journal = self._answer.recv()
        assert isinstance(journal, Journal)
        return journal

    def finish(self) -> Journal:
        """Stops; checks that no write failed and that what was acknowledged is there, or a newer attempt."""
        self._stop.set()
        journal = self._receive()
        self._process.join(10)
        assert not journal.error, f"a write to {self.path.name} failed: {journal.error}"
        with self.path.open("rb") as file:
            for block, generation in journal.acknowledged.items():
                file.seek(block * BLOCK)
                found = file.read(BLOCK)
                allowed = range(generation, journal.attempted[block] + 1)
                assert any(found == journal.content(block, g) for g in allowed), (
                    f"{self.path.name}: block {block} lost generation {generation}"
                )
        return journal
