"""Schedules: complete, free of deadlock, and as short and small as published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.pipelining.schedules import ScheduleDualPipeV

from threefs.compute_kernels.dualpipe import (
    DeferredLinear,
    PipelineError,
    ScheduleError,
    Times,
    WeightGradStore,
    dualpipe_schedule,
    dualpipev_schedule,
    measure_times,
    simulate,
    verify,
)
from threefs.compute_kernels.dualpipe.baselines import (
    from_torch,
    interleaved_schedule,
    one_f_one_b_schedule,
    zb1p_schedule,
)
from threefs.compute_kernels.dualpipe.messages import plan_messages
from threefs.compute_kernels.dualpipe.plot import plot_gantt
from threefs.compute_kernels.dualpipe.schedule import Kind, Schedule
from threefs.compute_kernels.dualpipe.verify import check_messages

pytestmark = pytest.mark.unit


@settings(max_examples=20)
@given(ranks=st.integers(1, 10), extra=st.integers(0, 12))
def test_every_size_verifies(ranks: int, extra: int) -> None:
    schedules = [dualpipev_schedule(ranks, 2 * ranks + extra)]
    if ranks % 2 == 0:
        schedules.append(dualpipe_schedule(ranks, 2 * (ranks + extra // 2)))
    for schedule in schedules:
        verify(schedule, activations_max=schedule.stages + 1)
        forward = schedule.forward_only()
        check_messages(forward, plan_messages(forward))


@pytest.mark.parametrize("make", [one_f_one_b_schedule, zb1p_schedule, interleaved_schedule])
@pytest.mark.parametrize(("ranks", "chunks"), [(1, 1), (2, 4), (4, 8), (8, 24)])
def test_baselines_verify(make: object, ranks: int, chunks: int) -> None:
    verify(make(ranks, chunks))  # type: ignore[operator]


@pytest.mark.parametrize("stages", [4, 8, 16])
@pytest.mark.parametrize("unit", [1.0, 3.0])
@pytest.mark.parametrize("pair", [3.0, 2.5])
def test_published_bubbles_and_memory(stages: int, unit: float, pair: float) -> None:
    """In units of F, with B = 2F and W = F, as the published table assumes."""
    times = Times(unit, 2 * unit, unit, pair * unit)
    forward, backward, weight, overlapped = unit, 2 * unit, unit, pair * unit
    dual = (stages // 2 - 1) * (overlapped + backward - 3 * weight)
    chunks = 4 * stages
    for schedule, bubble, activations in (
        (one_f_one_b_schedule(stages, chunks), (stages - 1) * (forward + backward), stages),
        (zb1p_schedule(stages, chunks), (stages - 1) * (forward + backward - 2 * weight), stages),
        (dualpipe_schedule(stages, chunks), dual, stages + 1),
        (dualpipev_schedule(stages // 2, chunks), dual, stages + 1),
        # two stages a rank, each half as deep: half the bubble of 1F1B in its units
        (interleaved_schedule(stages, chunks), (stages - 1) * (forward + backward), None),
    ):
        timeline = simulate(schedule, times)
        assert timeline.bubble == pytest.approx(bubble), schedule.name
        if activations is not None:
            assert max(timeline.peak_deferred) == activations, schedule.name
    both = simulate(dualpipe_schedule(stages, chunks)).peak_deferred
    assert both == [stages + 1] * stages  # every rank alike


def test_a_known_length() -> None:
    assert simulate(dualpipe_schedule(8, 20)).makespan == 66.0


def test_torchs_own_dualpipev_is_the_same_schedule() -> None:
    for ranks, chunks in ((2, 4), (4, 10), (8, 20)):
        theirs = torch_dualpipev(ranks, chunks)
        ours = dualpipev_schedule(ranks, chunks)
        verify(theirs)
        for times in (Times(), Times(1.0, 2.0, 1.0, 2.5)):
            assert simulate(theirs, times).makespan == simulate(ours, times).makespan
            assert simulate(theirs, times).bubbles == simulate(ours, times).bubbles
        assert simulate(theirs).peak_deferred == simulate(ours).peak_deferred


def torch_dualpipev(ranks: int, chunks: int) -> Schedule:
    """torch builds its order in a constructor that wants live stages; the order itself needs two numbers."""
    maker = object.__new__(ScheduleDualPipeV)
    maker.pp_group_size, maker._n_microbatches = ranks, chunks
    order = {rank: maker._calculate_single_rank_operations(rank) for rank in range(ranks)}
    down = list(range(ranks))
    return from_torch("torch ScheduleDualPipeV", order, down + down[::-1])


@pytest.mark.parametrize(
    ("make", "ranks", "chunks", "message"),
    [
        (dualpipe_schedule, 3, 8, "num_ranks: DualPipe pairs rank r"),
        (dualpipe_schedule, 0, 8, "num_ranks"),
        (dualpipe_schedule, 4, 6, r"num_chunks: at least 8 \(two for each rank\) fill this pipeline, got 6"),
        (dualpipe_schedule, 2, 5, "must be even, got 5"),
        (dualpipev_schedule, 0, 4, "num_ranks: expected 1 or more"),
        (dualpipev_schedule, 3, 5, "num_chunks: at least 6"),
        (interleaved_schedule, 4, 6, "groups of 4"),
        (one_f_one_b_schedule, 0, 1, "must be 1 or more"),
    ],
)
def test_sizes_that_cannot_be(make: object, ranks: int, chunks: int, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        make(ranks, chunks)  # type: ignore[operator]


def spoiled(change: object) -> Schedule:
    schedule = dualpipe_schedule(2, 4)
    steps = [list(rank) for rank in schedule.steps]
    change(steps)  # type: ignore[operator]
    return replace(schedule, steps=tuple(tuple(rank) for rank in steps))


def test_the_verifier_finds_what_is_wrong() -> None:
    def drop(steps: list[list[object]]) -> None:
        steps[0].pop(0)

    def repeat(steps: list[list[object]]) -> None:
        steps[0].append(steps[0][0])

    def backward_first(steps: list[list[object]]) -> None:
        steps[0].sort(key=lambda step: step[0].kind is Kind.FORWARD)  # type: ignore[index]

    def move(steps: list[list[object]]) -> None:
        steps[1].append(steps[0].pop(0))

    for change, message in (
        (drop, "runs 0 times"),
        (repeat, "runs 2 times"),
        (backward_first, "deadlocks: rank 0 before"),
        (move, "whose stage is elsewhere"),
    ):
        with pytest.raises(ScheduleError, match=message):
            verify(spoiled(change))
    with pytest.raises(ScheduleError, match="holds 3 chunks, more than 2"):
        verify(dualpipe_schedule(2, 4), activations_max=2)


def test_the_verifier_finds_messages_that_wait_for_each_other() -> None:
    schedule = dualpipe_schedule(2, 4)
    late = plan_messages(schedule)
    batch = next(index for index, each in enumerate(late[0]) if each.receives)
    late[0][-1].receives[:0] = late[0][batch].receives
    late[0][batch].receives.clear()
    with pytest.raises(ScheduleError, match=r"another order|wait for each other"):
        check_messages(schedule, late)
    both = plan_messages(schedule)
    for rank in both:  # everything received one batch too late: each waits for the other's next batch
        received = [each.receives for each in rank]
        for each, shifted in zip(rank, [[], *received[:-1]], strict=True):
            each.receives = shifted
        rank[-1].receives = rank[-1].receives + received[-1]
    with pytest.raises(ScheduleError, match="wait for each other"):
        check_messages(schedule, both)


def test_weight_grad_store_is_a_queue_of_chunks() -> None:
    done: list[str] = []
    for chunk in ("first", "second"):
        WeightGradStore.put(lambda chunk=chunk: done.append(chunk))  # type: ignore[misc]
        WeightGradStore.flush()
    WeightGradStore.pop()
    assert done == ["first"]
    WeightGradStore.pop()
    assert done == ["first", "second"]
    with pytest.raises(AssertionError, match="empty store"):
        WeightGradStore.pop()
    WeightGradStore.put(lambda: None)
    with pytest.raises(AssertionError, match="before flush"):
        WeightGradStore.pop()
    WeightGradStore.clear()


def test_measured_times_are_positive_and_leave_no_trace() -> None:
    layer = DeferredLinear(64, 64)
    times = measure_times(layer, (torch.randn(32, 64),))
    assert times.forward > 0
    assert times.backward >= times.weight >= 0
    assert layer.weight.grad is None
    assert not WeightGradStore.funcs_queue


def test_gantt_is_drawn(tmp_path: Path) -> None:
    plot_gantt([simulate(dualpipe_schedule(4, 10)), simulate(one_f_one_b_schedule(4, 10))], tmp_path / "g.svg")
    assert (tmp_path / "g.svg").stat().st_size > 10_000
