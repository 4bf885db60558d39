"""The borders of the key ranges, from a sample of the keys: balanced also when keys are skewed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from threefs.workloads.graysort.files import opened, read_at, record_count
from threefs.workloads.graysort.records import KEY_BYTES, RECORD_BYTES

SAMPLES_PER_RANGE: Final = 256  # ranges stay within about ± 20 % of the mean
_STRETCHES: Final = 16  # a file is sampled at so many places


def sample(path: Path, wanted: int) -> list[bytes]:
    """About `wanted` keys from places spread over the file."""
    size = record_count(path) * RECORD_BYTES
    stretch = min(-(-wanted // _STRETCHES) * RECORD_BYTES, size)
    keys: list[bytes] = []
    with opened(path, os.O_RDONLY) as descriptor:
        for number in range(_STRETCHES if wanted else 0):
            offset = (size - stretch) // RECORD_BYTES * number // (_STRETCHES - 1) * RECORD_BYTES
            found = read_at(descriptor, offset, stretch)
            keys += [bytes(found[at : at + KEY_BYTES]) for at in range(0, len(found), RECORD_BYTES)]
    return keys


def splitters_of(keys: list[bytes], ranges: int) -> bytes:
    """ranges - 1 sorted keys that cut the sampled keys into equal parts."""
    ordered = sorted(keys)
    return b"".join(ordered[len(ordered) * number // ranges] for number in range(1, ranges))
