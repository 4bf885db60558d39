"""What a shuffle file looks like, and the descriptor with which a consumer finds its part of it.

    Arrow IPC stream: schema message, then record batch messages, then the end-of-stream marker
    index:            for every partition, for every round: (offset, bytes, rows) of its message, 24 bytes

Any Arrow reader reads the file as a stream and stops before the index. The rows of one partition and one round are
one message; a file that was written in one round holds every partition in one stretch. (0, 0, 0) says: no rows.
The index is partition by partition, so that a consumer reads its entries with one pread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from threefs.common.errors import Corrupt

ENTRY: Final = np.dtype([("offset", "<u8"), ("bytes", "<u8"), ("rows", "<u8")])

Entries = npt.NDArray[np.void]  # of dtype ENTRY


@dataclass(frozen=True, slots=True)
class ShuffleFile:
    """One producer's output: what a consumer has to be told of it. Small, and independent of the partitions."""

    path: str
    partitions: int
    rounds: int  # entries a partition has in the index
    rows: int
    schema_bytes: int  # the schema message is the file's first bytes
    index_offset: int  # where the index begins; the file ends with it

    def entries(self, descriptor: int, first: int = 0, count: int | None = None) -> Entries:
        """The index of partitions first … first + count - 1, one row each. Corrupt if the file is shorter."""
        wanted = self.partitions - first if count is None else count
        assert 0 <= first <= first + wanted <= self.partitions, f"partitions {first}+{wanted} of {self.partitions}"
        row = self.rounds * ENTRY.itemsize
        raw = os.pread(descriptor, wanted * row, self.index_offset + first * row)
        if len(raw) != wanted * row:
            raise Corrupt(f"{self.path} ends within its index: {len(raw)} of {wanted * row} bytes")
        return np.frombuffer(raw, ENTRY).reshape(wanted, self.rounds)
