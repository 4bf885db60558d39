"""Proof that a schedule can run, before any rank starts.

Called by tests over all sizes, and by anyone who writes a schedule. The rule: a schedule that passes does every
operation once, cannot deadlock even if no message is buffered, and stays within its memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from threefs.compute_kernels.dualpipe.errors import ScheduleError
from threefs.compute_kernels.dualpipe.messages import Batch, Message, plan_messages
from threefs.compute_kernels.dualpipe.schedule import Kind, Schedule
from threefs.compute_kernels.dualpipe.simulate import simulate


def verify(schedule: Schedule, *, activations_max: int | None = None) -> None:
    """Raise `ScheduleError` unless the schedule is complete, ordered, free of deadlock and within memory."""
    _check_complete(schedule)
    _check_weight_order(schedule)
    timeline = simulate(schedule)  # raises on a cycle of dependencies
    check_messages(schedule, plan_messages(schedule))
    peak = max(timeline.peak_deferred)
    if activations_max is not None and peak > activations_max:
        rank = timeline.peak_deferred.index(peak)
        raise ScheduleError(f"{schedule.name}: rank {rank} holds {peak} chunks, more than {activations_max}")


def _check_complete(schedule: Schedule) -> None:
    """Every stage passes every chunk forward once and backward once, where it lives."""
    done: Counter[tuple[str, int, int, int]] = Counter()
    for rank, steps in enumerate(schedule.steps):
        for step in steps:
            kinds = [op.kind for op in step]
            if len(step) > 1 and kinds != [Kind.FORWARD, Kind.BACKWARD]:
                raise ScheduleError(f"{schedule.name}: rank {rank} overlaps {' and '.join(map(str, step))}")
            for op in step:
                if schedule.rank_of[op.pipe][op.stage] != rank:
                    raise ScheduleError(f"{schedule.name}: rank {rank} runs {op}, whose stage is elsewhere")
                for part in {Kind.FORWARD: "F", Kind.BACKWARD: "IW", Kind.INPUT: "I", Kind.WEIGHT: "W"}[op.kind]:
                    done[part, op.pipe, op.stage, op.chunk] += 1
    for part in "FIW":
        for pipe, ranks in enumerate(schedule.rank_of):
            for stage in range(len(ranks)):
                for chunk in range(schedule.chunks):
                    if (times := done[part, pipe, stage, chunk]) != 1:
                        raise ScheduleError(
                            f"{schedule.name}: {part} of pipe {pipe}, stage {stage}, chunk {chunk} runs {times} times"
                        )


def _check_weight_order(schedule: Schedule) -> None:
    """Deferred weight gradients come back first in, first out: `WeightGradStore` is a queue."""
    for rank, steps in enumerate(schedule.steps):
        ops = [op for step in steps for op in step]
        deferred = [op[1:] for op in ops if op.kind is Kind.INPUT]
        computed = [op[1:] for op in ops if op.kind is Kind.WEIGHT]
        if deferred != computed:
            raise ScheduleError(
                f"{schedule.name}: rank {rank} computes weight gradients in another order than deferred"
            )


def check_messages(schedule: Schedule, batches: list[list[Batch]]) -> None:
    """The batches pair up in order, arrive in time, and need no buffering.

    Without buffering a batch is over only when the counterpart of each of its messages is posted too.
    """
    posted_in: dict[tuple[bool, Message], int] = {}
    order: dict[tuple[int, int, bool], list[Message]] = defaultdict(list)
    for rank in batches:
        for index, batch in enumerate(rank):
            for is_send, messages in ((True, batch.sends), (False, batch.receives)):
                for message in messages:
                    posted_in[is_send, message] = index
                    order[message.source, message.target, is_send].append(message)
    for source, target in {key[:2] for key in order}:
        if order[source, target, True] != order[source, target, False]:
            raise ScheduleError(
                f"{schedule.name}: rank {target} receives from rank {source} in another order than sent"
            )
    reached = [0] * len(batches)
    progress = True
    while progress:
        progress = False
        for place, mine in enumerate(batches):
            while reached[place] < len(mine) and _is_over(mine[reached[place]], posted_in, reached):
                reached[place] += 1
                progress = True
    stuck = [place for place, mine in enumerate(batches) if reached[place] < len(mine)]
    if stuck:
        raise ScheduleError(f"{schedule.name}: the messages of ranks {stuck} wait for each other")


def _is_over(batch: Batch, posted_in: dict[tuple[bool, Message], int], reached: list[int]) -> bool:
    return all(posted_in[False, message] <= reached[message.target] for message in batch.sends) and all(
        posted_in[True, message] <= reached[message.source] for message in batch.receives
    )
