"""A verified write load: every acknowledged write is remembered, and found again at the end."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from random import Random

BLOCK = 64 << 10
FILE_BLOCKS = 64


class Writer(threading.Thread):
    """Overwrites random blocks of one file, each followed by fdatasync. An error ends it and is kept."""

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__(name=f"writer-{seed}", daemon=True)
        self.path = path
        self.acknowledged: dict[int, int] = {}  # block → generation that was acknowledged last
        self.attempted: dict[int, int] = {}  # block → newest generation that was tried
        self.longest_pause_s = 0.0
        self.writes = 0
        self.error: OSError | None = None
        self._random = Random(seed)
        self._stop_asked = threading.Event()

    def run(self) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                while not self._stop_asked.is_set():
                    self._write(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            self.error = exc

    def _write(self, descriptor: int) -> None:
        block = self._random.randrange(FILE_BLOCKS)
        generation = self.attempted.get(block, 0) + 1
        self.attempted[block] = generation
        began = time.monotonic()
        os.pwrite(descriptor, self.content(block, generation), block * BLOCK)
        os.fdatasync(descriptor)
        self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - began)
        self.acknowledged[block] = generation
        self.writes += 1

    def content(self, block: int, generation: int) -> bytes:
        return Random(f"{self.path.name}/{block}/{generation}").randbytes(64) * (BLOCK // 64)

    def finish(self) -> None:
        """Stops, and raises what went wrong while writing."""
        self._stop_asked.set()
        self.join(60)
        assert not self.is_alive(), f"{self.name} hangs"
        if self.error is not None:
            raise self.error

    def verify(self) -> None:
        """What was acknowledged is there, unless a newer attempt of which nobody heard took its place."""
        with self.path.open("rb") as file:
            for block, generation in self.acknowledged.items():
                file.seek(block * BLOCK)
                found = file.read(BLOCK)
                allowed = range(generation, self.attempted[block] + 1)
                assert any(found == self.content(block, g) for g in allowed), (
                    f"{self.path.name}: block {block} lost generation {generation}"
                )


def wait_until(condition: object, timeout_s: float, what: str) -> None:
    """Polls a callable until it is true."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.05)
