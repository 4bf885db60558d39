"""What every measurement shares: a result as a ratio to a ceiling of the same run, medians, cold caches."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from threefs.common.errors import UserError


@dataclass(frozen=True, slots=True)
class Measurement:
    """`value` of ours beside `ceiling` of the machine, both in `unit` (larger is better)."""

    name: str
    unit: str
    value: float
    ceiling: float
    ceiling_name: str

    @property
    def ratio(self) -> float:
        return self.value / self.ceiling if self.ceiling else float("nan")


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median_rate(
    amount: float, work: Callable[[], object], *, repeat: int = 3, before: Callable[[], object] = int
) -> float:
    """amount / seconds, the median of `repeat` runs; `before` prepares each and is not counted."""
    rates = []
    for _ in range(repeat):
        before()
        rates.append(amount / seconds(work))
    return statistics.median(rates)


def drop_caches() -> None:
    """Empties the kernel's page, dentry and inode caches. UserError without the right to."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as exc:
        raise UserError("cold reads need the right to drop the kernel's caches", "run as root") from exc
