"""Schedules side by side: length, bubble and memory, ours and torch's, in one table."""

from __future__ import annotations

import pytest
from tests.compute_kernels.dualpipe.test_schedule import torch_dualpipev

from threefs.compute_kernels.dualpipe import Times, dualpipe_schedule, dualpipev_schedule, simulate
from threefs.compute_kernels.dualpipe.baselines import (
    interleaved_schedule,
    one_f_one_b_schedule,
    zb1p_schedule,
)
from threefs.compute_kernels.dualpipe.simulate import Timeline

pytestmark = pytest.mark.bench

RANKS, CHUNKS = 8, 24


def rows(pair: float) -> list[tuple[Timeline, float]]:
    """Each with the time of one whole model pass, so that models cut into more stages compare fairly."""
    whole, half = Times(1.0, 2.0, 1.0, pair), Times(0.5, 1.0, 0.5, pair / 2)
    return [
        (simulate(one_f_one_b_schedule(RANKS, CHUNKS), whole), 1.0),
        (simulate(interleaved_schedule(RANKS, CHUNKS), half), 0.5),
        (simulate(zb1p_schedule(RANKS, CHUNKS), whole), 1.0),
        (simulate(dualpipe_schedule(RANKS, CHUNKS), whole), 1.0),
        (simulate(dualpipev_schedule(RANKS, CHUNKS), half), 0.5),
        (simulate(torch_dualpipev(RANKS, CHUNKS), half), 0.5),
    ]


@pytest.mark.parametrize("pair", [3.0, 2.5])
def test_schedules_side_by_side(pair: float) -> None:
    print(f"\n{RANKS} ranks, {CHUNKS} chunks, F = 1, B = 2, W = 1, F&B = {pair}")
    print("schedule                        length  bubble  share  activations (of a whole stage)")
    table = rows(pair)
    for timeline, size in table:
        print(
            f"{timeline.schedule.name:30} {timeline.makespan:7.1f} {timeline.bubble:7.1f}"
            f" {timeline.bubble / timeline.makespan:6.1%}  {max(timeline.peak_deferred) * size:.1f}"
        )
    lengths = {timeline.schedule.name: timeline.makespan for timeline, _ in table}
    assert lengths["DualPipeV"] == lengths["torch ScheduleDualPipeV"]
    assert lengths["DualPipe"] < lengths["ZB1P"] < lengths["1F1B"]
