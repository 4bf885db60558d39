"""What can go wrong in a pipeline, by whose fault it is.

Raised by the whole of `threefs.compute_kernels.dualpipe`. The rule: raised before the first message of a step is
posted wherever it can be known by then, because a rank that stops in the middle leaves its peers waiting.
"""

from __future__ import annotations

from threefs.compute_kernels.errors import InvalidInput, KernelError


class PipelineError(InvalidInput):
    """An argument, a module or a tensor shape that the pipeline cannot run with."""


class ScheduleError(KernelError, RuntimeError):
    """A schedule that cannot run: an operation missing or twice, a cycle of waits, messages out of order."""
