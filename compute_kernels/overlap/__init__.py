"""What computation hides of communication, from traces of the PyTorch profiler. See docs/overlap.md."""

from threefs.compute_kernels.overlap.analyse import Device, analyse, describe, select
from threefs.compute_kernels.overlap.bubble import find_bubbles
from threefs.compute_kernels.overlap.compare import compare
from threefs.compute_kernels.overlap.errors import TraceError
from threefs.compute_kernels.overlap.rules import Rule, load_rules
from threefs.compute_kernels.overlap.trace import Trace, load_trace
from threefs.compute_kernels.overlap.what_if import what_if

__all__ = [
    "Device",
    "Rule",
    "Trace",
    "TraceError",
    "analyse",
    "compare",
    "describe",
    "find_bubbles",
    "load_rules",
    "load_trace",
    "select",
    "what_if",
]
