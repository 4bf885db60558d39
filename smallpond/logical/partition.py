"""Where a task stands: one PartitionInfo a dimension, kept sorted by dimension."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from threefs.smallpond.common import DATA_PARTITION_COLUMN_NAME, TOPLEVEL_DIMENSION


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """Partition `index` of `npartitions` along `dimension`."""

    index: int = 0
    npartitions: int = 1
    dimension: str = TOPLEVEL_DIMENSION

    toplevel_dimension: ClassVar[str] = TOPLEVEL_DIMENSION
    default_dimension: ClassVar[str] = DATA_PARTITION_COLUMN_NAME

    def __lt__(self, other: PartitionInfo) -> bool:
        return (self.dimension, self.index) < (other.dimension, other.index)

    def __str__(self) -> str:
        return f"{self.dimension}[{self.index}/{self.npartitions}]"


Partition = tuple[PartitionInfo, ...]  # sorted by dimension; the top level is always there
TOPLEVEL: Partition = (PartitionInfo(),)


def extend(partition: Partition, info: PartitionInfo) -> Partition:
    return tuple(sorted((*partition, info), key=lambda item: item.dimension))


def dimensions(partition: Partition) -> tuple[str, ...]:
    return tuple(info.dimension for info in partition)


def project(partition: Partition, names: Iterable[str]) -> Partition:
    """The infos of the named dimensions only."""
    wanted = set(names)
    return tuple(info for info in partition if info.dimension in wanted)


def label(partition: Partition) -> str:
    """For people: `bucket=3, range=0`; empty at the top level."""
    shown = [info for info in partition if info.dimension != TOPLEVEL_DIMENSION]
    return ", ".join(f"{info.dimension.strip('_')}={info.index}" for info in shown)
