"""Which partition each row belongs to: by hash, by range, by a column that says it, or at random.

A partitioner is a small, picklable description that travels to every producer. `owners` is its only rule: equal
partitioners give equal rows equal partitions, on every producer and whatever engine made the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from threefs.common.errors import UserError
from threefs.smallpond.shuffle.hashing import owners_by_hash

PARTITIONS_MAX: Final = 1 << 24  # an index has 24 bytes a partition and round
Owners = npt.NDArray[np.uint32]


class Partitioner(Protocol):
    @property
    def partitions(self) -> int: ...

    def owners(self, batch: pa.RecordBatch, number: int) -> Owners:
        """The partition of every row of the producer's batch `number`, each in 0 … partitions - 1.

        UserError if a row or column cannot have one.
        """
        ...


@dataclass(frozen=True, slots=True)
class HashPartitioner:
    """Equal values of `columns` share a partition (see `hashing`)."""

    columns: Sequence[str]
    partitions: int

    def __post_init__(self) -> None:
        check_partitions(self.partitions)
        if not self.columns:
            raise UserError("a hash partition needs at least one column", "name the columns to hash by")

    def owners(self, batch: pa.RecordBatch, number: int) -> Owners:
        return owners_by_hash([column_of(batch, name) for name in self.columns], self.partitions)


@dataclass(frozen=True, slots=True)
class RangePartitioner:
    """Partition p holds the rows with split_points[p - 1] <= value < split_points[p]; n points make n + 1 partitions.

    `split_points` are ascending and without nulls; they are cast to the column's type. `descending` numbers the
    partitions from the greatest values down. Nulls go to the last partition, or with `nulls="first"` to the first,
    whatever the direction. NaN is the greatest number. Decimals are compared as float64.
    """

    column: str
    split_points: pa.Array
    descending: bool = False
    nulls: Literal["first", "last"] = "last"

    def __post_init__(self) -> None:
        check_partitions(self.partitions)
        if self.split_points.null_count:
            raise UserError("split points must not be null", "nulls have a place of their own: nulls='first' or 'last'")

    @property
    def partitions(self) -> int:
        return len(self.split_points) + 1

    def owners(self, batch: pa.RecordBatch, number: int) -> Owners:
        import pyarrow.compute as pc  # here: it takes as long to import as a small query runs

        values = column_of(batch, self.column)
        points = self._points(values.type)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_decimal(values.type):
            values, points = values.cast(pa.float64()), points.cast(pa.float64())
        try:
            found = pc.search_sorted(points, values, side="right")
        except pa.ArrowNotImplementedError as exc:
            raise UserError(
                f"column {self.column} has type {values.type}, which has no ranges", "cast it to a number or a string"
            ) from exc
        if self.descending:
            found = pc.subtract(pa.scalar(self.partitions - 1, pa.uint64()), found)
        null_owner = 0 if self.nulls == "first" else self.partitions - 1
        owners: Owners = pc.fill_null(found, null_owner).to_numpy(zero_copy_only=False).astype(np.uint32)
        return owners

    def _points(self, kind: pa.DataType) -> pa.Array:
        wanted = kind.value_type if pa.types.is_dictionary(kind) else kind
        try:
            return self.split_points.cast(wanted)
        except pa.ArrowInvalid as exc:
            raise UserError(
                f"split points of type {self.split_points.type} do not fit column {self.column} of type {kind}",
                "give split points of the column's type",
            ) from exc


@dataclass(frozen=True, slots=True)
class GivenPartitioner:
    """`column` holds the partition number."""

    column: str
    partitions: int

    def __post_init__(self) -> None:
        check_partitions(self.partitions)

    def owners(self, batch: pa.RecordBatch, number: int) -> Owners:
        values = column_of(batch, self.column)
        if not pa.types.is_integer(values.type):
            raise UserError(
                f"partition column {self.column} has type {values.type}", "give an expression of an integer type"
            )
        if values.null_count:
            raise UserError(f"partition column {self.column} is null in {values.null_count} rows", "filter them first")
        numbers = values.to_numpy(zero_copy_only=False)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < self.partitions):
            wrong: Any = next(n for n in (numbers.min(), numbers.max()) if not 0 <= n < self.partitions)
            raise UserError(
                f"partition key {wrong} is out of range 0-{self.partitions - 1}",
                f"column {self.column} must hold the number of a partition",
            )
        owners: Owners = numbers.astype(np.uint32)
        return owners


@dataclass(frozen=True, slots=True)
class RandomPartitioner:
    """Each row goes anywhere, with equal chances. Give each producer a seed of its own."""

    partitions: int
    seed: int

    def __post_init__(self) -> None:
        check_partitions(self.partitions)

    def owners(self, batch: pa.RecordBatch, number: int) -> Owners:
        random = np.random.default_rng([self.seed, number])
        owners: Owners = random.integers(self.partitions, size=batch.num_rows, dtype=np.uint32)
        return owners


def check_partitions(partitions: int) -> None:
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise UserError(f"{partitions} partitions", f"choose 1 … {PARTITIONS_MAX:,}")


def column_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    index = batch.schema.get_field_index(name)
    if index < 0:
        known = ", ".join(batch.schema.names)
        raise UserError(f"no column {name!r} to partition by (or two of that name)", f"the columns are: {known}")
    return batch.column(index)
