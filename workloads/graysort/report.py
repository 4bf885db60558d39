"""What a GraySort job reports: its phases, and that the output is the sorted input."""

from __future__ import annotations

from dataclasses import dataclass

from threefs.common.errors import UserError
from threefs.workloads.graysort.records import Summary


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    seconds: float
    bytes: int  # of records that passed

    @property
    def gb_per_s(self) -> float:
        return self.bytes / self.seconds / 1e9


@dataclass(frozen=True, slots=True)
class JobReport:
    records: int
    checksum: str
    duplicates: int
    skewed: bool
    spilled: bool
    phases: tuple[Phase, ...]

    @property
    def sort_s(self) -> float:
        """What GraySort counts: partition and sort, without generation and validation."""
        return sum(phase.seconds for phase in self.phases if phase.name in ("partition", "sort"))

    @property
    def total_s(self) -> float:
        return sum(phase.seconds for phase in self.phases)


def checked(made: Summary, found: Summary, *, skewed: bool, spilled: bool, phases: tuple[Phase, ...]) -> JobReport:
    """The report, if what was found is what was made, in order; else UserError."""
    if found.unordered or (found.records, found.checksum) != (made.records, made.checksum):
        raise UserError(
            f"the output is wrong: {found.records} of {made.records} records, {found.unordered} unordered, "
            f"checksum {found.checksum:x}, generated {made.checksum:x}",
            "keep both files with --keep and look at them",
        )
    return JobReport(found.records, f"{found.checksum:x}", found.duplicates, skewed, spilled, phases)
