"""How the bench takes a time, and the line it makes of it. Used by `bench` and `bench_rows`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Row", "host_time", "row", "timed"]

_FLUSH_BYTES = 512 << 20
_PAUSE_S = 0.5  # before each row: the card is warm, but not throttled by the row before (up to 15 % else)


@dataclass(frozen=True)
class Row:
    """One timed call."""

    kernel: str
    shape: str
    microseconds: float
    tflops: float
    gigabytes_s: float
    original_microseconds: float | None = None

    def line(self) -> str:
        ratio = f"{self.original_microseconds / self.microseconds:6.2f}" if self.original_microseconds else "     -"
        head = f"{self.kernel:10} {self.shape:28} {self.microseconds:9.1f} {self.tflops:8.0f}"
        return f"{head} {self.gigabytes_s:8.0f} {ratio}"


def timed(call: Callable[[], object], calls: int = 8, replays: int = 5) -> float:
    """Microseconds of one call with a cold L2, as the module says."""
    scratch = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    call()
    torch.cuda.synchronize()

    def capture(body: Callable[[], object]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                scratch.zero_()
                body()
        return graph

    with_call, without = capture(call), capture(lambda: None)
    time.sleep(_PAUSE_S)
    samples: list[float] = []
    for _ in range(replays):
        marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(3)]  # type: ignore[no-untyped-call]
        marks[0].record()
        with_call.replay()
        marks[1].record()
        without.replay()
        marks[2].record()
        torch.cuda.synchronize()
        difference = float(marks[0].elapsed_time(marks[1]) - marks[1].elapsed_time(marks[2]))
        samples.append(difference * 1000 / calls)
    return statistics.median(samples)


def host_time(call: Callable[[], object], calls: int = 50, rounds: int = 20) -> float:
    """Microseconds that a call keeps Python: few enough calls a round that the launch queue never fills."""
    samples: list[float] = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - began) * 1e6 / calls)
    return statistics.median(samples)


def row(kernel: str, shape: str, us: float, operations: float, bytes_: float, original: float | None = None) -> Row:
    return Row(kernel, shape, us, operations / us / 1e6, bytes_ / us / 1e3, original)
