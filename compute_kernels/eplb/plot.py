"""Load per GPU before and after, as a figure. Needs matplotlib, imported only here."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from threefs.compute_kernels.eplb.plan import Plan

BEFORE, AFTER = "#b8bfc9", "#2f6fb0"


def plot_load(before: Plan, after: Plan, layer: int, path: Path | str, *, title: str = "") -> None:
    """Bars of one layer's GPU loads over their mean, old plan behind new, written as `path`'s suffix says.

    Both are taken under the new plan's loads: that is what the old placement would have to carry now.
    """
    old = before.gpu_load_under(after.problem.weight)[layer]
    new = after.gpu_load[layer]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for load, width, colour, name in ((old, 0.9, BEFORE, "before"), (new, 0.55, AFTER, "after")):
        worth = load.mean() / load.max() if load.max() > 0 else 1.0
        label = f"{name}: balancedness {worth:.3f}"
        axes.bar(range(load.size), load / (load.mean() or 1.0), width=width, color=colour, label=label)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="GPU", ylabel="load / mean load", title=title or f"layer {layer}")
    axes.legend(frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
