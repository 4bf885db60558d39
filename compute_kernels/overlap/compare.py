"""What changed from one trace to another.

Called by the command's `--diff`. The rule: both sides are analysed alike, and every row says after minus before.
"""

from __future__ import annotations

from dataclasses import dataclass

from threefs.compute_kernels.overlap.analyse import Device

TOTALS = ("span", "busy", "compute", "communication", "overlap", "exposed", "memory")


@dataclass(frozen=True)
class Change:
    """Microseconds before and after."""

    name: str
    before: float
    after: float
    count_before: int = 0
    count_after: int = 0

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Comparison:
    before: str
    after: str
    totals: tuple[Change, ...]
    kernels: tuple[Change, ...]  # greatest change first


def compare(before: Device, after: Device) -> Comparison:
    """Totals and kernels of two devices, after minus before."""
    totals = [Change(name, getattr(before, name), getattr(after, name)) for name in TOTALS]
    totals.append(Change("idle", before.gaps.idle, after.gaps.idle))
    old = {row.name: row for row in before.kernels}
    new = {row.name: row for row in after.kernels}
    changes = []
    for name in {**old, **new}:
        one, two = old.get(name), new.get(name)
        changes.append(
            Change(
                name,
                one.total if one else 0.0,
                two.total if two else 0.0,
                one.count if one else 0,
                two.count if two else 0,
            )
        )
    changes.sort(key=lambda row: -abs(row.change))
    return Comparison(before.path, after.path, tuple(totals), tuple(changes))
