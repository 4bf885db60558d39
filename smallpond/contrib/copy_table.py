"""Nodes that hand their first input on: as a table, or as a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from threefs.smallpond.logical.node import ArrowComputeNode, ArrowStreamNode


class CopyArrowTable(ArrowComputeNode):
    def process(self, runtime_ctx: Any, input_tables: list[pa.Table]) -> pa.Table:
        return input_tables[0]


class StreamCopy(ArrowStreamNode):
    def process(self, runtime_ctx: Any, input_readers: list[pa.RecordBatchReader]) -> Iterable[pa.Table]:
        for batch in input_readers[0]:
            yield pa.Table.from_batches([batch])
