"""Daemons of a development cluster as processes: started detached, found again by their pid file, stopped politely."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from threefs.common.errors import UserError

STOP_S = 60.0  # between SIGTERM and SIGKILL: a mount on a busy machine has files to write back


class Process:
    """One daemon's process. The command line contains its folder, so that a recycled pid is not taken for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pid_file = folder / "pid"
        self.log = folder / "log"

    def pid(self) -> int | None:
        """The running process, or None."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        # Empty: exec has just closed the descriptors and not yet set the command line, or it is a zombie.
        return pid if (not command or str(self.folder).encode() in command) and state != "Z" else None

    def start(self, command: Sequence[str]) -> int:
        """Starts it in a session of its own, its output appended to the log."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self._pid_file.write_text(str(process.pid))
        self._children.append(process)
        while process.poll() is None and self.pid() is None:  # its command line is there a moment after exec
            time.sleep(0.001)
        return process.pid

    _children: ClassVar[list[subprocess.Popen[bytes]]] = []  # kept, so that those that exit are reaped

    def signal(self, number: signal.Signals) -> None:
        if (pid := self.pid()) is not None:
            os.kill(pid, number)

    def wait_gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid() is not None:
            if time.monotonic() > deadline:
                return False
            for child in self._children:
                child.poll()
            time.sleep(0.02)
        self._pid_file.unlink(missing_ok=True)
        return True

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not go."""
        self.signal(signal.SIGTERM)
        if not self.wait_gone(STOP_S):
            self.signal(signal.SIGKILL)
            self.wait_gone(STOP_S)

    def why_it_ended(self) -> str:
        """Its last words: the error line of the log, else the last line."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        errors = [number for number, line in enumerate(lines) if line.startswith("error:")]
        if errors:
            return " ".join(line.strip() for line in lines[errors[-1] : errors[-1] + 2])
        return lines[-1] if lines else "it said nothing"


def daemon_command(role: str, config: Path) -> list[str]:
    """`3fs run` without the parser of the command line, which takes a quarter of a daemon's time to start."""
    return [sys.executable, "-m", "threefs.cli.run", role, str(config)]


def require_alive(process: Process, name: str) -> None:
    """UserError with the daemon's own words if it has ended."""
    if process.pid() is None:
        raise UserError(f"{name} ended at its start: {process.why_it_ended()}", f"its log: {process.log}")
