"""The reports as text for a terminal.

Called by the command. The rule: numbers right-aligned in milliseconds, shares in per cent, names last and cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from threefs.compute_kernels.overlap.analyse import Device
from threefs.compute_kernels.overlap.bubble import Bubbles
from threefs.compute_kernels.overlap.compare import Comparison
from threefs.compute_kernels.overlap.rules import short_name
from threefs.compute_kernels.overlap.what_if import WhatIf

KERNELS_SHOWN, EXPOSED_SHOWN, GAPS_SHOWN = 15, 12, 5
NAME_WIDTH = 72


def ms(microseconds: float) -> str:
    return f"{microseconds / 1000:,.3f}"


def percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """The last `names` columns are left-aligned."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    first_name = len(header) - names

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column < first_name else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  " + "  ".join(cells).rstrip()

    return "\n".join([title, line(header), *map(line, rows), ""])


def device_text(device: Device, what_ifs: Sequence[WhatIf] = ()) -> str:
    """One device's report."""
    rank = f", rank {device.rank}" if device.rank is not None else ""
    parts = [f"{device.path}: device {device.device}{rank}, {ms(device.span)} ms"]
    if device.is_truncated:
        parts.append("  the file ends in the middle of an event: it was cut off, and so is this report")
    parts += ["", _totals(device), _classes(device), _exposed(device), _kernels(device), _gaps(device)]
    parts.append(
        table(
            "If communication took k times as long (every order kept)",
            ("k", "span ms", "against now", "exposed ms"),
            [(f"{row.factor:g}", ms(row.span), percent(row.span, device.span), ms(row.exposed)) for row in what_ifs],
            names=0,
        )
    )
    return "\n".join(part for part in parts if part or part == "").rstrip() + "\n"


def _totals(device: Device) -> str:
    whole = device.span
    rows = [
        ("computation", device.compute),
        ("communication", device.communication),
        ("  hidden by computation", device.overlap),
        ("  exposed", device.exposed),
        ("copies and sets", device.memory),
        ("idle", device.gaps.idle),
        ("  launch-bound", device.gaps.launch_bound),
        ("  waiting", device.gaps.waiting),
        ("  cause not recorded", device.gaps.unknown),
    ]
    shown = [(ms(value), percent(value, whole), name) for name, value in rows]
    if device.hidden_share is not None:
        shown.append(("", f"{device.hidden_share:.1%}", "of communication is hidden"))
    return table("Time", ("ms", "of span", ""), shown)


def _classes(device: Device) -> str:
    return table(
        f"Classes{f' (of {device.num_sms} multiprocessors)' if device.num_sms else ''}",
        ("busy ms", "of span", "exposed ms", "count", "SMs", "kind", "class"),
        [
            (
                ms(row.busy),
                percent(row.busy, device.span),
                ms(row.exposed) if row.kind == "communication" else "",
                f"{row.count:,}",
                f"{row.sms:.0f}" if row.sms is not None else "-",
                row.kind,
                row.label,
            )
            for row in device.classes
        ],
        names=2,
    )


def _exposed(device: Device) -> str:
    return table(
        "Exposed communication, by kernel and layer",
        ("exposed ms", "of it", "total ms", "count", "layer", "kernel"),
        [
            (
                ms(row.exposed),
                percent(row.exposed, device.exposed),
                ms(row.total),
                f"{row.count:,}",
                row.layer[:40],
                row.name[:NAME_WIDTH],
            )
            for row in device.exposed_by[:EXPOSED_SHOWN]
        ],
        names=2,
    )


def _kernels(device: Device) -> str:
    return table(
        f"Kernels ({min(KERNELS_SHOWN, len(device.kernels))} of {len(device.kernels)})",
        ("total ms", "share", "count", "mean us", "p50 us", "p99 us", "class", "kernel"),
        [
            (
                ms(row.total),
                f"{row.share:.1%}",
                f"{row.count:,}",
                f"{row.mean:,.1f}",
                f"{row.p50:,.1f}",
                f"{row.p99:,.1f}",
                row.label,
                short_name(row.name)[:NAME_WIDTH],
            )
            for row in device.kernels[:KERNELS_SHOWN]
        ],
        names=2,
    )


def _gaps(device: Device) -> str:
    gaps = device.gaps
    ranges = table(
        f"Gaps ({gaps.count:,})",
        ("length", "count", "total ms"),
        [(name, f"{count:,}", ms(total)) for name, count, total in gaps.histogram],
        names=0,
    )
    longest = table(
        "Longest gaps",
        ("ms", "cause", "between"),
        [(ms(gap.length), gap.cause, f"{gap.before} -> {gap.after}"[:110]) for gap in gaps.longest[:GAPS_SHOWN]],
    )
    return f"{ranges}\n{longest}"


def bubbles_text(bubbles: Bubbles) -> str:
    clock = "one clock" if bubbles.aligned else "each from its own start: the traces share no clock"
    return table(
        f"Pipeline bubbles in {ms(bubbles.span)} ms ({clock})",
        ("rank", "busy ms", "bubble ms", "share", "trace"),
        [
            ("-" if row.rank is None else str(row.rank), ms(row.busy), ms(row.bubble), f"{row.share:.1%}", row.path)
            for row in bubbles.ranks
        ],
    )


def comparison_text(comparison: Comparison) -> str:
    totals = table(
        f"From {comparison.before} to {comparison.after}",
        ("before ms", "after ms", "change ms", "change", ""),
        [
            (ms(row.before), ms(row.after), f"{row.change / 1000:+,.3f}", percent(row.change, row.before), row.name)
            for row in comparison.totals
        ],
    )
    kernels = table(
        "Kernels that changed most",
        ("before ms", "after ms", "change ms", "count", "kernel"),
        [
            (
                ms(row.before),
                ms(row.after),
                f"{row.change / 1000:+,.3f}",
                f"{row.count_before:,} -> {row.count_after:,}",
                short_name(row.name)[:NAME_WIDTH],
            )
            for row in comparison.kernels[:KERNELS_SHOWN]
        ],
    )
    return f"{totals}\n{kernels}"
