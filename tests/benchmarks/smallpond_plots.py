"""The pictures of docs/smallpond.md, from what `bench_smallpond` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, OTHERS = "#1f77b4", "#9a9a9a"
PHASES = ("generate_s", "partition_s", "sort_s", "validate_s")
Result = dict[str, dict[str, Any]]


def group_by(result: Result, path: Path) -> None:
    """Wall time, CPU seconds and memory, side by side."""
    panels = (("job_s", "seconds", 1.0), ("cpu_s", "CPU seconds", 1.0), ("peak_bytes", "GB of memory", 1e9))
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 2.6), sharey=True)
    names = list(result)[::-1]
    colours = [OURS if name.startswith("3fs") else OTHERS for name in names]
    for axis, (key, title, unit) in zip(axes, panels, strict=True):
        bars = axis.barh(names, [result[name][key] / unit for name in names], color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=3)
        axis.set_title(title)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def graysort(result: Result, path: Path) -> None:
    """The phases of each contender, one behind the other."""
    figure, axis = plt.subplots(figsize=(9, 2.6))
    names = list(result)[::-1]
    begins = [0.0] * len(names)
    for phase in PHASES:
        lengths = [result[name]["phases"][phase] for name in names]
        axis.barh(names, lengths, left=begins, label=phase.removesuffix("_s"))
        begins = [begin + length for begin, length in zip(begins, lengths, strict=True)]
    for number, total in enumerate(begins):
        axis.text(total, number, f" {total:.1f} s", va="center")
    axis.set_xlabel("seconds")
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(ncols=len(PHASES), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
