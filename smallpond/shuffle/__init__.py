"""The shuffle: rows from every producer to the consumer that owns their partition, through one file a producer.

    file = write_shuffle(source, path, HashPartitioner(["k"], 8))   # once a producer
    table = read_partition(files, 3)                                # once a consumer, zero-copy from the page cache

`layout` says what a file looks like, `hashing` which row goes where. A descriptor (`ShuffleFile`) has the same size for
any number of partitions, so that handing all producers' descriptors to all consumers costs producers x consumers.
"""

from __future__ import annotations

from threefs.smallpond.shuffle.layout import ShuffleFile
from threefs.smallpond.shuffle.partitioners import (
    GivenPartitioner,
    HashPartitioner,
    Partitioner,
    RandomPartitioner,
    RangePartitioner,
)
from threefs.smallpond.shuffle.read import partition_reader, partition_rows, read_partition
from threefs.smallpond.shuffle.write import write_shuffle

__all__ = [
    "GivenPartitioner",
    "HashPartitioner",
    "Partitioner",
    "RandomPartitioner",
    "RangePartitioner",
    "ShuffleFile",
    "partition_reader",
    "partition_rows",
    "read_partition",
    "write_shuffle",
]
