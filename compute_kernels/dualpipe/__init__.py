"""Bidirectional pipeline parallelism that hides communication and bubbles. See docs/dualpipe.md."""

from threefs.compute_kernels.dualpipe.errors import PipelineError, ScheduleError
from threefs.compute_kernels.dualpipe.p2p import set_p2p_tensor_dtype, set_p2p_tensor_shapes
from threefs.compute_kernels.dualpipe.pipelines import DualPipe, DualPipeV
from threefs.compute_kernels.dualpipe.runtime import run_backward
from threefs.compute_kernels.dualpipe.schedule import dualpipe_schedule, dualpipev_schedule
from threefs.compute_kernels.dualpipe.simulate import Times, measure_times, simulate
from threefs.compute_kernels.dualpipe.verify import verify
from threefs.compute_kernels.dualpipe.weight_grad import DeferredLinear, WeightGradStore

__all__ = [
    "DeferredLinear",
    "DualPipe",
    "DualPipeV",
    "PipelineError",
    "ScheduleError",
    "Times",
    "WeightGradStore",
    "dualpipe_schedule",
    "dualpipev_schedule",
    "measure_times",
    "run_backward",
    "set_p2p_tensor_dtype",
    "set_p2p_tensor_shapes",
    "simulate",
    "verify",
]
