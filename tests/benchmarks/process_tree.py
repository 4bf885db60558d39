"""What a command costs, over all its processes: wall time, CPU seconds, peak memory.

Sampled from /proc. CPU is what each process had used when it was last seen; memory is the sum of the proportional
shares of anonymous and shared memory, so that pages which processes share count once, and page cache not at all.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_S = 0.5  # reading the memory of a large process stops its page faults for a while


@dataclass(frozen=True, slots=True)
class Cost:
    wall_s: float
    cpu_s: float
    peak_bytes: int
    output: str


def run(
    command: Sequence[str | Path], *, environment: dict[str, str] | None = None, timeout_s: float = 600, cwd: Path
) -> Cost:
    """Runs a command to its end; AssertionError with its output if it fails. Whatever it left running is killed."""
    log = cwd / "output.log"
    with log.open("wb") as sink:
        began = time.perf_counter()
        child = psutil.Popen(
            [str(part) for part in command],
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=_clean(os.environ) | (environment or {}),
            start_new_session=True,
        )
        cpu: dict[int, float] = {}
        peak = 0
        family: list[psutil.Process] = []
        while child.poll() is None:
            family = [child, *child.children(recursive=True)]
            cpu.update({process.pid: _cpu_s(process, cpu.get(process.pid, 0.0)) for process in family})
            peak = max(peak, sum(_memory_bytes(process.pid) for process in family))
            if time.perf_counter() - began > timeout_s:
                break
            time.sleep(INTERVAL_S)
        wall = time.perf_counter() - began
    for process in family[::-1]:
        if process.is_running():
            process.kill()
    output = log.read_text(errors="replace")
    assert child.wait() == 0, f"{command} failed:\n{output[-4000:]}"
    return Cost(wall, sum(cpu.values()), peak, output)


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Installed programs read compiled modules; an environment that keeps none would measure the compiler."""
    return {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _cpu_s(process: psutil.Process, before: float) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return before
    return max(before, times.user + times.system)


def _memory_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) << 10
