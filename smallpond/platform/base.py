"""The platform that every other one is made of: this machine, and plain processes on it.

A subclass says how `start_job` brings up a program elsewhere, and which defaults belong to the place. One rule: what
`start_job` started, `stop_job` ends, given the names that `start_job` returned.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

STOP_SECONDS = 10.0  # a job that was asked to end may take so long, then it is killed


class Platform:
    """This machine."""

    def __init__(self) -> None:
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __str__(self) -> str:
        return type(self).__name__

    @staticmethod
    def is_available() -> bool:
        return True

    def start_job(
        self,
        num_nodes: int,
        entrypoint: str,
        args: Sequence[str],
        envs: Mapping[str, str] | None = None,
        extra_opts: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Run `python entrypoint args…` once on each of so many nodes; the names of what was started.

        `extra_opts` are the keywords of `init` that only a platform understands, and `job_name`.
        """
        return [self._start([sys.executable, entrypoint, *args], envs) for _ in range(num_nodes)]

    def _start(self, command: Sequence[str], envs: Mapping[str, str] | None) -> str:
        process = subprocess.Popen(command, env={**os.environ, **(envs or {})}, stdin=subprocess.DEVNULL)
        self._started[str(process.pid)] = process
        return str(process.pid)

    def exit_status(self, pid: str) -> int | None:
        """Of a job that has ended; None while it runs, or where the platform cannot tell."""
        process = self._started.get(pid)
        return None if process is None else process.poll()

    def stop_job(self, pid: str) -> None:
        process = self._started.pop(pid, None)
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
        process.kill()
        process.wait()

    # ---- what the place has for defaults ----

    @staticmethod
    def default_job_id() -> str:
        return uuid.uuid4().hex

    @staticmethod
    def default_job_time() -> datetime:
        return datetime.now()

    @staticmethod
    def default_data_root() -> str | None:
        """None: the one below the home folder, which other hosts do not see."""
        return None

    @staticmethod
    def default_memory_allocator() -> str | None:
        """None: what every library chooses."""
        return None

    # Names that programs written for smallpond may override; there is nothing here that would ask for them.

    @staticmethod
    def default_share_log_analytics() -> bool:
        return False

    @staticmethod
    def shared_log_root() -> str | None:
        return None

    @staticmethod
    def grafana_homepath() -> str | None:
        return None
