"""Schedules as data: what each rank computes, in which order.

Made by `dualpipe_schedule` here and by `baselines.py`, read by the runtime, the verifier, the simulator and the
plots. The rule: a schedule is a pure function of its sizes, and every rank can compute every other rank's part.

A pipe is one direction of flow through all stages. DualPipe has two, which meet on every rank; the others have
one. A chunk of a pipe passes its stages 0, 1, ... forward and then back.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from threefs.compute_kernels.dualpipe.errors import PipelineError


class Kind(enum.Enum):
    FORWARD = "F"
    BACKWARD = "B"  # gradients of inputs and of weights
    INPUT = "I"  # gradients of inputs; those of the weights are deferred
    WEIGHT = "W"  # the deferred gradients of weights

    @property
    def gives_input_gradient(self) -> bool:
        return self in (Kind.BACKWARD, Kind.INPUT)


class Op(NamedTuple):
    """One stage's work on one chunk."""

    kind: Kind
    pipe: int
    stage: int
    chunk: int

    def __str__(self) -> str:
        return f"{self.kind.value}(pipe {self.pipe}, stage {self.stage}, chunk {self.chunk})"


Step = tuple[Op, ...]  # one operation, or a forward and a backward that may overlap


@dataclass(frozen=True)
class Schedule:
    """`steps[rank]` in order. `rank_of[pipe][stage]` says where each stage lives."""

    name: str
    rank_of: tuple[tuple[int, ...], ...]
    chunks: int  # per pipe
    steps: tuple[tuple[Step, ...], ...]

    @property
    def num_ranks(self) -> int:
        return len(self.steps)

    @property
    def stages(self) -> int:
        return len(self.rank_of[0])

    def forward_only(self) -> Schedule:
        """The same order with nothing but the forward passes, for inference."""
        steps = tuple(tuple((op,) for step in rank for op in step if op.kind is Kind.FORWARD) for rank in self.steps)
        return replace(self, name=f"{self.name}, forward only", steps=steps)


@dataclass
class StepList:
    """Writes down one rank's steps: chunks count up by themselves, deferred weight gradients come back in order."""

    places: Sequence[tuple[int, int]]  # (pipe, stage) of each of the rank's modules
    steps: list[Step] = field(default_factory=list)
    _next_forward: dict[int, int] = field(default_factory=dict)
    _next_backward: dict[int, int] = field(default_factory=dict)
    _deferred: deque[tuple[int, int]] = field(default_factory=deque)

    def forward(self, phase: int) -> None:
        self.steps.append((self._forward(phase),))

    def backward(self, phase: int, *, defer: bool = False) -> None:
        self.steps.append((self._backward(phase, Kind.INPUT if defer else Kind.BACKWARD),))

    def pair(self, forward_phase: int, backward_phase: int) -> None:
        self.steps.append((self._forward(forward_phase), self._backward(backward_phase, Kind.BACKWARD)))

    def weight(self) -> None:
        phase, chunk = self._deferred.popleft()
        self.steps.append((Op(Kind.WEIGHT, *self.places[phase], chunk),))

    @property
    def num_deferred(self) -> int:
        return len(self._deferred)

    def _forward(self, phase: int) -> Op:
        return Op(Kind.FORWARD, *self.places[phase], self._count(self._next_forward, phase))

    def _backward(self, phase: int, kind: Kind) -> Op:
        chunk = self._count(self._next_backward, phase)
        if kind is Kind.INPUT:
            self._deferred.append((phase, chunk))
        return Op(kind, *self.places[phase], chunk)

    @staticmethod
    def _count(counter: dict[int, int], phase: int) -> int:
        chunk = counter.get(phase, 0)
        counter[phase] = chunk + 1
        return chunk


def dualpipe_schedule(num_ranks: int, num_chunks: int) -> Schedule:
    """DualPipe: two opposite pipes over the same ranks, `num_chunks` over both together."""
    if num_ranks < 2 or num_ranks % 2:
        raise PipelineError(
            f"num_ranks: DualPipe pairs rank r with rank P-1-r, so P must be even, got {num_ranks}; "
            "DualPipeV takes any number"
        )
    _check_chunks(num_chunks, 2 * num_ranks)
    if num_chunks % 2:
        raise PipelineError(f"num_chunks: DualPipe feeds half from each end, so it must be even, got {num_chunks}")
    half = num_ranks // 2
    steps = []
    for rank in range(num_ranks):
        mirror = num_ranks - 1 - rank
        places = [(0, rank), (1, mirror)]
        steps.append(_eight_steps(places if rank < half else places[::-1], half, min(rank, mirror), num_chunks // 2))
    forth = tuple(range(num_ranks))
    return Schedule("DualPipe", (forth, forth[::-1]), num_chunks // 2, tuple(steps))


def dualpipev_schedule(num_ranks: int, num_chunks: int) -> Schedule:
    """DualPipeV: one pipe of 2P stages that runs down the ranks and back up."""
    if num_ranks < 1:
        raise PipelineError(f"num_ranks: expected 1 or more, got {num_ranks}")
    _check_chunks(num_chunks, 2 * num_ranks)
    last = 2 * num_ranks - 1
    steps = [_eight_steps([(0, rank), (0, last - rank)], num_ranks, rank, num_chunks) for rank in range(num_ranks)]
    down = tuple(range(num_ranks))
    return Schedule("DualPipeV", (down + down[::-1],), num_chunks, tuple(steps))


def _check_chunks(num_chunks: int, least: int) -> None:
    if num_chunks < least:
        raise PipelineError(f"num_chunks: at least {least} (two for each rank) fill this pipeline, got {num_chunks}")


def _eight_steps(places: Sequence[tuple[int, int]], depth: int, position: int, chunks: int) -> tuple[Step, ...]:
    """The published order. `position` counts inwards from the end that feeds phase 0: 0 .. depth-1."""
    todo = StepList(places)
    outer, inner = depth - position - 1, position + 1
    for _ in range(2 * outer):  # 1: fill
        todo.forward(0)
    for _ in range(inner):  # 2: both directions forward
        todo.forward(0)
        todo.forward(1)
    for _ in range(outer):  # 3: the first backward passes, weights deferred to a gap
        todo.backward(1, defer=True)
        todo.weight()
        todo.forward(1)
    for turn in range(chunks - 2 * depth + position + 1):  # 4: the main phase
        if turn == 0 and outer == 0:
            # The innermost rank has nothing to wait for here: one after the other shortens the others' bubble.
            todo.forward(0)
            todo.backward(1)
        else:
            todo.pair(0, 1)
        todo.pair(1, 0)
    for _ in range(outer):  # 5: drain
        todo.backward(1)
        todo.pair(1, 0)
    _drain_both(todo, inner, first_deferred=inner // 2 * 2 + (0 if position % 2 else 1))  # 6
    for _ in range(outer):  # 7: weights fill the gaps
        todo.weight()
        todo.backward(0, defer=True)
    while todo.num_deferred:  # 8
        todo.weight()
    return tuple(todo.steps)


def _drain_both(todo: StepList, rounds: int, first_deferred: int) -> None:
    """Alternating backward passes; from the `first_deferred`th on, weights are deferred."""
    for turn in range(2 * rounds):
        todo.backward(1 - turn % 2, defer=turn >= first_deferred)


def modules_of(schedule: Schedule) -> Mapping[int, list[tuple[int, int]]]:
    """Each rank's (pipe, stage) places, in the order of pipes and stages."""
    places: dict[int, list[tuple[int, int]]] = {rank: [] for rank in range(schedule.num_ranks)}
    for pipe, ranks in enumerate(schedule.rank_of):
        for stage, rank in enumerate(ranks):
            places[rank].append((pipe, stage))
    return places
