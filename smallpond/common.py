"""Names and sizes that every part of smallpond shares."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

KB: Final = 1 << 10
MB: Final = 1 << 20
GB: Final = 1 << 30
TB: Final = 1 << 40

DEFAULT_ROW_GROUP_SIZE: Final = 122_880  # DuckDB's own: sixty vectors of 2,048 rows
MAX_ROW_GROUP_SIZE: Final = 10 * MB
DEFAULT_BATCH_SIZE: Final = 122_880
INLINE_BYTES_MAX: Final = 16 * KB  # results up to this size travel in the descriptor instead of a file
DATA_PARTITION_COLUMN_NAME: Final = "__data_partition__"
TOPLEVEL_DIMENSION: Final = "@toplevel@"
PARQUET_METADATA_KEY_PREFIX: Final = "SMALLPOND:"
GENERATED_COLUMNS: Final = ("filename", "file_row_number")
PARTITIONS_MAX: Final = 4_096_000  # of one node, over all nested dimensions


def split_evenly(count: int, parts: int) -> list[tuple[int, int]]:
    """`parts` contiguous ranges (begin, end) that cover 0 … count; sizes differ by at most one."""
    assert parts > 0, parts
    base, extra = divmod(count, parts)
    bounds = [index * base + min(index, extra) for index in range(parts + 1)]
    return list(pairwise(bounds))
