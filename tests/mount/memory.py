"""Mounts on clients in memory, each in a process of its own, gone with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from threefs.fuse.mountpoint import mounted_at

DEADLINE_S = 100.0  # only a hang reaches it: a busy machine takes seconds to start a mount


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Polls a callable until it is true; fails the test after the deadline."""
    limit = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < limit, f"{what} did not happen within {DEADLINE_S:g} s"
        time.sleep(0.01)


def mount_process(path: Path, *options: str, errors: IO[str] | int) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.mount.memory_mount", str(path), *options]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=errors, text=True)


@dataclass
class MemoryMount:
    path: Path
    process: subprocess.Popen[str]
    log: Path

    def stop(self) -> int:
        """A clean end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def toggle_storage(self) -> str:
        """Storage stops answering ("hangs"), or answers again ("answers")."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGUSR1)
        return self.process.stdout.readline().strip()

    def nap(self) -> str:
        """The mount's Python sleeps until `wake`, and then finds all at once what has come meanwhile."""
        assert self.process.stdout is not None
        (self.path.parent / "asleep").touch()
        self.process.send_signal(signal.SIGUSR2)
        return self.process.stdout.readline().strip()

    def wake(self) -> None:
        (self.path.parent / "asleep").unlink()

    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def memory_mount(folder: Path, *options: str) -> Iterator[MemoryMount]:
    """Mounted at folder/mnt; afterwards unmounted, with nothing in its log."""
    path, log = folder / "mnt", folder / "mount.log"
    if not os.path.lexists(path) and mounted_at(str(path)) is None:
        path.mkdir()
    with log.open("w") as errors:
        process = mount_process(path, *options, errors=errors)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", log.read_text()
            yield MemoryMount(path, process, log)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            if mounted_at(str(path)) is not None:
                subprocess.run(["umount", "-l", str(path)], check=True)
