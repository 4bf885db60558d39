"""Timelines of schedules as a figure. Needs matplotlib, imported only here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from threefs.compute_kernels.dualpipe.schedule import Kind, Step
from threefs.compute_kernels.dualpipe.simulate import Timeline

COLOURS = {Kind.FORWARD: "#f2b84b", Kind.BACKWARD: "#3d7ebf", Kind.INPUT: "#5cb3a8", Kind.WEIGHT: "#8fbf6b"}
NAMES = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.INPUT: "input gradient",
    Kind.WEIGHT: "weight gradient",
}


def plot_gantt(timelines: Sequence[Timeline], path: Path | str) -> None:
    """One panel a schedule, one row a rank; overlapped pairs are split along their row. Suffix sets the format."""
    ranks = [timeline.schedule.num_ranks for timeline in timelines]
    figure = Figure(figsize=(13, sum(0.34 * count + 0.75 for count in ranks) + 0.4), layout="constrained")
    panels = figure.subplots(
        len(timelines), 1, squeeze=False, sharex=True, height_ratios=[count + 1 for count in ranks]
    )
    for timeline, axes in zip(timelines, panels[:, 0], strict=True):
        _draw(timeline, axes)
    panels[-1, 0].set_xlabel("time (units of one forward)")
    handles = [Patch(color=COLOURS[kind], label=NAMES[kind]) for kind in Kind]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=100)


def _draw(timeline: Timeline, axes: Axes) -> None:
    for rank, steps in enumerate(timeline.schedule.steps):
        for index, step in enumerate(steps):
            _draw_step(axes, rank, timeline.start[rank][index], timeline.finish[rank][index], step)
    peak = max(timeline.peak_deferred)
    axes.set_title(
        f"{timeline.schedule.name}: {timeline.makespan:g} long, bubble {timeline.bubble:g}, {peak} chunks held",
        loc="left",
        fontsize=10,
    )
    axes.set_yticks(range(timeline.schedule.num_ranks), [f"rank {rank}" for rank in range(timeline.schedule.num_ranks)])
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=8)


def _draw_step(axes: Axes, rank: int, start: float, finish: float, step: Step) -> None:
    height = 0.9 / len(step)
    for place, op in enumerate(step):
        low = rank - 0.45 + place * height
        axes.broken_barh(
            [(start, finish - start)], (low, height), facecolor=COLOURS[op.kind], edgecolor="white", linewidth=0.6
        )
        axes.text(
            (start + finish) / 2,
            low + height / 2,
            str(op.chunk),
            ha="center",
            va="center",
            fontsize=7 if len(step) == 1 else 5,
            color="black" if op.pipe == 0 else "#7a1f2b",
        )
