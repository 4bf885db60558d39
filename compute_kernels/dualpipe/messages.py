"""When each rank posts which sends and receives.

Made from a schedule by `plan_messages`; posted by the runtime, checked by the verifier. A rank posts one batch before
each of its steps and one at the end; the sends of a step go into the batch after it.

The rule: between two ranks, messages are received in the order in which they are sent, because NCCL pairs them by
order alone. A receive is therefore posted for the first step that needs it or any later message of the same pair;
and earlier than that where the message is due earlier, so that its sender need not wait.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from threefs.compute_kernels.dualpipe.schedule import Kind, Op, Schedule
from threefs.compute_kernels.dualpipe.simulate import Timeline, simulate


class Payload(enum.Enum):
    ACTIVATION = "activation"
    GRADIENT = "gradient"


class Message(NamedTuple):
    """What `stage` of `pipe` is to receive for `chunk`."""

    payload: Payload
    pipe: int
    stage: int
    chunk: int
    source: int
    target: int


@dataclass
class Batch:
    """Posted together, so that none waits for another of the same batch."""

    sends: list[Message]
    receives: list[Message]


def plan_messages(schedule: Schedule) -> list[list[Batch]]:
    """Per rank, one batch before each step and a last one after all."""
    timeline = simulate(schedule)
    batches = [[Batch([], []) for _ in range(len(steps) + 1)] for steps in schedule.steps]
    needed_by = _first_needs(schedule)
    sent: dict[tuple[int, int], list[tuple[Message, float]]] = defaultdict(list)
    for rank, steps in enumerate(schedule.steps):
        for index, step in enumerate(steps):
            for message in filter(None, (message_of(schedule, op) for op in step)):
                batches[rank][index + 1].sends.append(message)
                sent[message.source, message.target].append((message, timeline.finish[rank][index]))
    for (_, target), messages in sent.items():
        _place_receives(batches[target], messages, timeline, needed_by, target)
    return batches


def message_of(schedule: Schedule, op: Op) -> Message | None:
    """The message that carries an operation's result to another rank, if there is one."""
    if op.kind is Kind.WEIGHT:
        return None
    stage = op.stage + 1 if op.kind is Kind.FORWARD else op.stage - 1
    if not 0 <= stage < schedule.stages:
        return None
    source, target = schedule.rank_of[op.pipe][op.stage], schedule.rank_of[op.pipe][stage]
    if source == target:
        return None
    payload = Payload.ACTIVATION if op.kind is Kind.FORWARD else Payload.GRADIENT
    return Message(payload, op.pipe, stage, op.chunk, source, target)


def _first_needs(schedule: Schedule) -> dict[tuple[Payload, int, int, int], int]:
    """For each (payload, pipe, stage, chunk), the index of the step that uses it on its rank."""
    needed: dict[tuple[Payload, int, int, int], int] = {}
    for steps in schedule.steps:
        for index, step in enumerate(steps):
            for op in step:
                if op.kind is not Kind.WEIGHT:
                    payload = Payload.ACTIVATION if op.kind is Kind.FORWARD else Payload.GRADIENT
                    needed[payload, *op[1:]] = index
    return needed


def _place_receives(
    batches: list[Batch],
    messages: list[tuple[Message, float]],
    timeline: Timeline,
    needed_by: dict[tuple[Payload, int, int, int], int],
    target: int,
) -> None:
    latest = [needed_by[message[:4]] for message, _ in messages]
    for index in range(len(latest) - 2, -1, -1):
        latest[index] = min(latest[index], latest[index + 1])
    at = 0
    start = timeline.start[target]
    for (message, sent_at), last in zip(messages, latest, strict=True):
        while at < last and start[at] < sent_at:
            at += 1
        batches[at].receives.append(message)
