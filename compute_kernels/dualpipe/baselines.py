"""The schedules that DualPipe is compared with: 1F1B, interleaved 1F1B, ZB1P, and whatever torch's own gives.

Read by the simulator and the plots; none of them is run. The rule is that of `schedule.py`: pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from threefs.compute_kernels.dualpipe.errors import PipelineError
from threefs.compute_kernels.dualpipe.schedule import Kind, Op, Schedule, Step, StepList


def one_f_one_b_schedule(num_ranks: int, num_chunks: int) -> Schedule:
    """1F1B: fill, then a forward and a backward in turn, then drain."""
    _check(num_ranks, num_chunks)
    steps = []
    for rank in range(num_ranks):
        todo = StepList([(0, rank)])
        ahead = min(num_ranks - 1 - rank, num_chunks)
        for _ in range(ahead):
            todo.forward(0)
        for _ in range(num_chunks - ahead):
            todo.forward(0)
            todo.backward(0)
        for _ in range(ahead):
            todo.backward(0)
        steps.append(tuple(todo.steps))
    return Schedule("1F1B", (tuple(range(num_ranks)),), num_chunks, tuple(steps))


def zb1p_schedule(num_ranks: int, num_chunks: int) -> Schedule:
    """ZB1P: 1F1B whose weight gradients wait, as many on rank r as it has activations to spare: r."""
    _check(num_ranks, num_chunks)
    steps = []
    for rank in range(num_ranks):
        todo = StepList([(0, rank)])
        ahead = min(num_ranks - 1 - rank, num_chunks)
        for _ in range(ahead):
            todo.forward(0)
        for _ in range(num_chunks - ahead):
            todo.forward(0)
            todo.backward(0, defer=True)
            if todo.num_deferred > rank:
                todo.weight()
        for _ in range(ahead):
            todo.backward(0, defer=True)
            todo.weight()
        while todo.num_deferred:
            todo.weight()
        steps.append(tuple(todo.steps))
    return Schedule("ZB1P", (tuple(range(num_ranks)),), num_chunks, tuple(steps))


def interleaved_schedule(num_ranks: int, num_chunks: int, stages_per_rank: int = 2) -> Schedule:
    """Interleaved 1F1B: stage s lives on rank s mod P; chunks go round in groups of P."""
    _check(num_ranks, num_chunks)
    if num_chunks % num_ranks:
        raise PipelineError(
            f"num_chunks: interleaving sends chunks round in groups of {num_ranks}, which {num_chunks} is not"
        )
    turns = num_chunks * stages_per_rank
    steps = []
    for rank in range(num_ranks):
        todo = StepList([(0, rank + local * num_ranks) for local in range(stages_per_rank)])
        forward = [turn // num_ranks % stages_per_rank for turn in range(turns)]
        backward = [stages_per_rank - 1 - local for local in forward]
        ahead = min((num_ranks - rank - 1) * 2 + (stages_per_rank - 1) * num_ranks, turns)
        for turn in range(turns + ahead):
            if turn < turns:
                todo.forward(forward[turn])
            if turn >= ahead:
                todo.backward(backward[turn - ahead])
        steps.append(tuple(todo.steps))
    return Schedule("interleaved 1F1B", (tuple(range(num_ranks)) * stages_per_rank,), num_chunks, tuple(steps))


KIND_OF_TORCH: Mapping[str, Kind] = {
    "FORWARD": Kind.FORWARD,
    "FULL_BACKWARD": Kind.BACKWARD,
    "BACKWARD_INPUT": Kind.INPUT,
    "BACKWARD_WEIGHT": Kind.WEIGHT,
}


def from_torch(name: str, pipeline_order: Mapping[int, Sequence[Any]], rank_of: Sequence[int]) -> Schedule:
    """A `pipeline_order` of torch.distributed.pipelining, so that it can be simulated beside ours."""
    steps: list[tuple[Step, ...]] = []
    for rank in range(len(pipeline_order)):
        mine: list[Step] = []
        for action in pipeline_order[rank]:
            if action is not None:
                parts = action.sub_actions or (action,)
                mine.append(
                    tuple(
                        Op(KIND_OF_TORCH[part.computation_type.name], 0, part.stage_index, part.microbatch_index)
                        for part in parts
                    )
                )
        steps.append(tuple(mine))
    chunks = 1 + max(op.chunk for rank in steps for step in rank for op in step)
    return Schedule(name, (tuple(rank_of),), chunks, tuple(steps))


def _check(num_ranks: int, num_chunks: int) -> None:
    if num_ranks < 1 or num_chunks < 1:
        raise PipelineError(f"num_ranks and num_chunks must be 1 or more, got {num_ranks} and {num_chunks}")
