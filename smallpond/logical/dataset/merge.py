"""Joining the data sets of several tasks into the one that the next task reads."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from threefs.smallpond.logical.dataset.base import DataSet, FilesDataSet
from threefs.smallpond.logical.dataset.memory import ArrowTableDataSet
from threefs.smallpond.logical.dataset.parquet import ParquetDataSet
from threefs.smallpond.logical.dataset.partitioned import ShuffledDataSet, UnionDataSet


def merge_datasets(datasets: Sequence[DataSet]) -> DataSet:
    """One data set with the rows of all, in order. Neighbours of one kind become one; the rest a union by name."""
    assert datasets, "nothing to merge"
    groups: list[list[DataSet]] = []
    for item in datasets:
        for part in item.parts if isinstance(item, UnionDataSet) else [item]:
            if groups and _alike(groups[-1][-1], part):
                groups[-1].append(part)
            else:
                groups.append([part])
    merged = [_join(group) for group in groups]
    return merged[0] if len(merged) == 1 else UnionDataSet(merged)


def _alike(first: DataSet, second: DataSet) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, ArrowTableDataSet) and isinstance(second, ArrowTableDataSet):
        return bool(first.table.schema.equals(second.table.schema))
    if isinstance(first, ShuffledDataSet) and isinstance(second, ShuffledDataSet):
        mine, theirs = ((s.partition, s.columns, s.partition_column) for s in (first, second))
        return mine == theirs and first.rows is None and second.rows is None
    if isinstance(first, FilesDataSet) and isinstance(second, FilesDataSet):
        return first._reading() == second._reading()
    return False


def _join(group: list[DataSet]) -> DataSet:
    first = group[0]
    if len(group) == 1:
        return first
    if isinstance(first, ArrowTableDataSet):
        tables = [item.table for item in group if isinstance(item, ArrowTableDataSet)]
        return ArrowTableDataSet(pa.concat_tables(tables))
    if isinstance(first, ShuffledDataSet):
        files = [file for item in group if isinstance(item, ShuffledDataSet) for file in item.files]
        return ShuffledDataSet(files, first.partition, first.columns, first.partition_column)
    if isinstance(first, ParquetDataSet):
        return ParquetDataSet.joined([item for item in group if isinstance(item, ParquetDataSet)])
    assert isinstance(first, FilesDataSet)
    return first.with_paths([path for item in group for path in item.resolved_paths])
