"""A schedule on a clock: when each step runs, how long ranks wait, how many activations they hold.

Used by the tests against the published formulae, by `messages.py` to place receives, by the plots. The rule:
only what the schedule says waits; messages cost `latency`, and nothing else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from threefs.compute_kernels.dualpipe.errors import ScheduleError
from threefs.compute_kernels.dualpipe.schedule import Kind, Op, Schedule, Step
from threefs.compute_kernels.dualpipe.weight_grad import WeightGradStore


@dataclass(frozen=True)
class Times:
    """How long a stage takes for a chunk. `backward` is the whole of it, the weights' part included."""

    forward: float = 1.0
    backward: float = 2.0
    weight: float = 1.0
    pair: float | None = None  # a forward and a backward overlapped; their sum if None

    def of(self, step: Step) -> float:
        if len(step) == 2:
            return self.forward + self.backward if self.pair is None else self.pair
        return {
            Kind.FORWARD: self.forward,
            Kind.BACKWARD: self.backward,
            Kind.INPUT: self.backward - self.weight,
            Kind.WEIGHT: self.weight,
        }[step[0].kind]


@dataclass(frozen=True)
class Timeline:
    """`start[rank][step]` and `finish[rank][step]`, in the units of `times`."""

    schedule: Schedule
    times: Times
    start: tuple[tuple[float, ...], ...]
    finish: tuple[tuple[float, ...], ...]

    @property
    def makespan(self) -> float:
        return max(rank[-1] for rank in self.finish if rank)

    @property
    def busy(self) -> list[float]:
        return [sum(self.times.of(step) for step in rank) for rank in self.schedule.steps]

    @property
    def bubbles(self) -> list[float]:
        """Time each rank does nothing, from the first step of any to the last of any."""
        return [self.makespan - busy for busy in self.busy]

    @property
    def bubble(self) -> float:
        return max(self.bubbles)

    @property
    def peak_activations(self) -> list[int]:
        """Most chunks whose activations a rank holds at once, from forward until the input gradient is done.

        Deferred weight gradients keep a part of them longer: the inputs of the layers with weights.
        """
        return [_peak(rank, until=(Kind.BACKWARD, Kind.INPUT)) for rank in self.schedule.steps]

    @property
    def peak_deferred(self) -> list[int]:
        """Most chunks a rank holds anything of, deferred weight gradients included."""
        return [_peak(rank, until=(Kind.BACKWARD, Kind.WEIGHT)) for rank in self.schedule.steps]


def _peak(steps: tuple[Step, ...], until: tuple[Kind, ...]) -> int:
    held = peak = 0
    for step in steps:
        held += sum(op.kind is Kind.FORWARD for op in step)
        peak = max(peak, held)
        held -= sum(op.kind in until for op in step)
    return peak


def needs(schedule: Schedule, op: Op) -> list[Op | tuple[Op, Op]]:
    """What must be finished first: operations, or pairs of which one exists (a full or an input-only backward)."""
    kind, pipe, stage, chunk = op
    if kind is Kind.FORWARD:
        return [Op(Kind.FORWARD, pipe, stage - 1, chunk)] if stage else []
    if kind is Kind.WEIGHT:
        return [Op(Kind.INPUT, pipe, stage, chunk)]
    own: list[Op | tuple[Op, Op]] = [Op(Kind.FORWARD, pipe, stage, chunk)]
    if stage + 1 < schedule.stages:
        own.append((Op(Kind.BACKWARD, pipe, stage + 1, chunk), Op(Kind.INPUT, pipe, stage + 1, chunk)))
    return own


def simulate(schedule: Schedule, times: Times | None = None, *, latency: float = 0.0) -> Timeline:
    """Run every rank's steps in order, each as soon as its inputs are there. Raises `ScheduleError` on a deadlock."""
    times = times or Times()
    done: dict[Op, tuple[float, int]] = {}
    start: list[list[float]] = [[] for _ in schedule.steps]
    finish: list[list[float]] = [[] for _ in schedule.steps]
    progress = True
    while progress:
        progress = False
        for rank, steps in enumerate(schedule.steps):
            while len(finish[rank]) < len(steps):
                step = steps[len(finish[rank])]
                ready = _ready_at(schedule, step, rank, done, latency)
                if ready is None:
                    break
                begin = max(ready, finish[rank][-1] if finish[rank] else 0.0)
                end = begin + times.of(step)
                start[rank].append(begin)
                finish[rank].append(end)
                done.update((op, (end, rank)) for op in step)
                progress = True
    stuck = [
        f"rank {rank} before {' and '.join(map(str, steps[len(finish[rank])]))}"
        for rank, steps in enumerate(schedule.steps)
        if len(finish[rank]) < len(steps)
    ]
    if stuck:
        raise ScheduleError(f"{schedule.name} deadlocks: " + "; ".join(stuck))
    return Timeline(schedule, times, tuple(map(tuple, start)), tuple(map(tuple, finish)))


def _ready_at(
    schedule: Schedule, step: Step, rank: int, done: dict[Op, tuple[float, int]], latency: float
) -> float | None:
    ready = 0.0
    for op in step:
        for need in needs(schedule, op):
            options = [need] if isinstance(need, Op) else need
            at = next((done[option] for option in options if option in done), None)
            if at is None:
                return None
            ready = max(ready, at[0] + (latency if at[1] != rank else 0.0))
    return ready


def measure_times(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], *, repeats: int = 5, pair: Callable[[], object] | None = None
) -> Times:
    """Median seconds of one stage on one chunk; `pair` runs an overlapped forward and backward, if there is one."""

    def clock(call: Callable[[], object]) -> float:
        samples = []
        for _ in range(repeats + 1):
            _synchronise(inputs)
            begin = time.perf_counter()
            call()
            _synchronise(inputs)
            samples.append(time.perf_counter() - begin)
        return statistics.median(samples[1:])

    def total(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
        return torch.stack([out.sum() for out in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs)]).sum()

    leaves = tuple(value.detach().requires_grad_(value.is_floating_point()) for value in inputs)

    def forward_and_backward() -> None:
        torch.autograd.backward(total(module(*leaves)))

    forward = clock(lambda: module(*leaves))
    both = clock(forward_and_backward)
    WeightGradStore.clear()
    WeightGradStore.enabled = True
    try:
        without_weights = clock(forward_and_backward)
    finally:
        WeightGradStore.enabled = False
        WeightGradStore.clear()
        module.zero_grad(set_to_none=True)
    backward = max(both - forward, 0.0)
    return Times(
        forward=forward,
        backward=backward,
        weight=min(max(both - without_weights, 0.0), backward),  # a part of it, whatever a busy machine measures
        pair=clock(pair) if pair is not None else None,
    )


def _synchronise(tensors: tuple[torch.Tensor, ...]) -> None:
    if any(tensor.is_cuda for tensor in tensors):
        torch.cuda.synchronize()
