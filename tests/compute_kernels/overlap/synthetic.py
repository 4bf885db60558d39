"""Traces written by hand, and a plain reckoning of what must come out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

GEMM = "void cutlass::device_kernel<cutlass::gemm::collective::DispatchPolicy<4>>(Params)"
DISPATCH = "void deep_ep::intranode::dispatch<8, 768, 8192>(int4*, float*, int)"


def kernel(name: str, start: float, length: float, stream: int = 7, **args: Any) -> dict[str, Any]:
    """One kernel; microseconds."""
    return {
        "ph": "X",
        "cat": "kernel",
        "name": name,
        "pid": 0,
        "tid": stream,
        "ts": start,
        "dur": length,
        "args": {"device": 0, "stream": stream, **args},
    }


def launch(correlation: int, start: float, thread: int = 1) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": "cuda_runtime",
        "name": "cudaLaunchKernel",
        "pid": 9,
        "tid": thread,
        "ts": start,
        "dur": 1.0,
        "args": {"correlation": correlation},
    }


def annotation(name: str, start: float, length: float, thread: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": "user_annotation", "name": name, "pid": 9, "tid": thread, "ts": start, "dur": length}


def write(path: Path, events: Iterable[dict[str, Any]], **head: Any) -> Path:
    text = json.dumps({"deviceProperties": [{"id": 0, "numSms": 132}], **head, "traceEvents": list(events)})
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def reckon(events: Iterable[dict[str, Any]], is_communication: Any) -> dict[str, float]:
    """Busy, overlapped, exposed and idle time by walking every moment something starts or ends."""
    edges: list[tuple[int, int, int]] = []
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            group = 2 if event["cat"] != "kernel" else int(is_communication(event["name"]))
            start = round(event["ts"] * 1000)
            edges += [(start, 1, group), (start + round(event["dur"] * 1000), -1, group)]
    edges.sort()
    running = [0, 0, 0]
    totals = dict.fromkeys(("compute", "communication", "memory", "overlap", "exposed", "idle"), 0.0)
    before = edges[0][0]
    for moment, change, group in edges:
        length = (moment - before) / 1000
        compute, communication, memory = (count > 0 for count in running)
        totals["compute"] += length * compute
        totals["communication"] += length * communication
        totals["memory"] += length * memory
        totals["overlap"] += length * (compute and communication)
        totals["exposed"] += length * (communication and not compute)
        totals["idle"] += length * (not any(running))
        running[group] += change
        before = moment
    return totals


def random_events(seed: int, count: int) -> list[dict[str, Any]]:
    """Kernels on four streams, in order on each, of every kind."""
    dice = np.random.default_rng(seed)
    events = []
    for stream in range(4):
        at = 1e9
        for _ in range(count // 4):
            at += float(np.round(dice.exponential(3.0), 3)) * float(dice.random() < 0.7)
            length = float(np.round(dice.exponential(5.0), 3))
            name = DISPATCH if stream == 3 or dice.random() < 0.2 else GEMM
            events.append(kernel(name, round(at, 3), length, stream))
            at += length
    return events
