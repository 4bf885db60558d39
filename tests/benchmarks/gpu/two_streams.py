"""A program whose overlap is known by construction, recorded for the analyser's tests.

Kernels spin for a given number of nanoseconds of the GPU's own clock. On two streams, tied by events:

    computation   30 ms |  40 ms          |        (host sleeps)  |        25 ms
    communication       |  60 ms          |                       | 25 ms

so computation is busy 95 ms, communication 85 ms, 40 ms of it hidden, 45 ms exposed.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

SPIN = r"""
extern "C" __global__ void NAME(long long nanoseconds) {
    long long begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do { asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); } while (now - begin < nanoseconds);
}
"""
MS = 1_000_000
IDLE_S = 0.05


def record_two_streams(path: Path) -> None:
    import cupy

    compute_kernel = cupy.RawKernel(SPIN.replace("NAME", "spin_gemm"), "spin_gemm")
    communicate_kernel = cupy.RawKernel(SPIN.replace("NAME", "nvshmem_spin_put"), "nvshmem_spin_put")
    streams = torch.cuda.Stream(), torch.cuda.Stream()

    def spin(kernel: object, stream: torch.cuda.Stream, milliseconds: int, blocks: int) -> None:
        with cupy.cuda.ExternalStream(stream.cuda_stream):
            kernel((blocks,), (32,), (cupy.int64(milliseconds * MS),))  # type: ignore[operator]

    def program() -> None:
        one, two = streams
        spin(compute_kernel, one, 30, 108)
        two.wait_stream(one)
        spin(compute_kernel, one, 40, 108)
        spin(communicate_kernel, two, 60, 24)
        torch.cuda.synchronize()
        time.sleep(IDLE_S)
        spin(communicate_kernel, two, 25, 24)
        one.wait_stream(two)
        spin(compute_kernel, one, 25, 108)
        torch.cuda.synchronize()

    program()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        program()
    profiler.export_chrome_trace(str(path))
