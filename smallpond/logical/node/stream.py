"""Nodes that run the user's Python on streams of batches, with checkpoints that a retry continues from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from threefs.smallpond.common import DEFAULT_BATCH_SIZE
from threefs.smallpond.logical.node.base import Context, Node
from threefs.smallpond.logical.node.compute import BatchFormat, ParquetOutputNode, _given, function_name

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class StreamOutput:
    """A piece of output and the input batches (by index, one an input) that it completes.

    After a checkpoint a retry does not see those batches again. `force_checkpoint` makes one now."""

    __slots__ = ("batch_indices", "force_checkpoint", "output_table")

    def __init__(
        self, output_table: pa.Table, batch_indices: Sequence[int] | None = None, force_checkpoint: bool = False
    ) -> None:
        self.output_table = output_table
        self.batch_indices = list(batch_indices or [])
        self.force_checkpoint = force_checkpoint and bool(self.batch_indices)


class ArrowStreamNode(ParquetOutputNode):
    """`process(runtime_ctx, input_readers)` yields tables (or `StreamOutput`s); output is written as it comes."""

    runs_user_code = True
    default_batch_size: ClassVar[int] = DEFAULT_BATCH_SIZE
    default_secs_checkpoint_interval: ClassVar[int] = 180

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        *,
        process_func: Callable[[Any, list[pa.RecordBatchReader]], Iterable[pa.Table]] | None = None,
        background_io_thread: bool = True,
        streaming_batch_size: int | None = None,
        secs_checkpoint_interval: float | None = None,
        parquet_row_group_size: int | None = None,
        parquet_dictionary_encoding: bool = False,
        parquet_compression: str = "ZSTD",
        parquet_compression_level: int | None = 1,
        use_duckdb_reader: bool = False,
        output_name: str | None = None,
        output_path: str | None = None,
        cpu_limit: int = 1,
        gpu_limit: float = 0,
        memory_limit: int | None = None,
    ) -> None:
        super().__init__(ctx, input_deps, output_name, output_path, cpu_limit, gpu_limit, memory_limit)
        self.process_func = process_func
        self.background_io_thread = background_io_thread
        self.streaming_batch_size = streaming_batch_size or self.default_batch_size
        default_interval = self.default_secs_checkpoint_interval / max(1.0, min(6, gpu_limit + 2, cpu_limit))
        self.secs_checkpoint_interval = (
            secs_checkpoint_interval if secs_checkpoint_interval is not None else default_interval
        )
        self.use_duckdb_reader = use_duckdb_reader
        self.set_parquet_options(
            parquet_row_group_size, parquet_dictionary_encoding, parquet_compression, parquet_compression_level
        )

    def process(self, runtime_ctx: Any, input_readers: list[pa.RecordBatchReader]) -> Iterable[pa.Table]:
        """Override it, or pass `process_func`."""
        found: Iterable[pa.Table] = _given(self)(runtime_ctx, input_readers)
        return found

    def details(self) -> str:
        return f"{function_name(self)}, {self.streaming_batch_size} rows a batch"


class ArrowBatchNode(ArrowStreamNode):
    """`process(runtime_ctx, [batch of each input]) -> table`, batch by batch."""

    batch_format: ClassVar[BatchFormat] = "arrow"

    def process(self, runtime_ctx: Any, input_tables: list[pa.Table]) -> pa.Table:
        return _given(self)(runtime_ctx, input_tables)


class PandasBatchNode(ArrowStreamNode):
    """`process(runtime_ctx, [frame of each input]) -> frame`, batch by batch."""

    batch_format: ClassVar[BatchFormat] = "pandas"

    def process(self, runtime_ctx: Any, input_dfs: list[pd.DataFrame]) -> pd.DataFrame:
        frame: pd.DataFrame = _given(self)(runtime_ctx, input_dfs)
        return frame


class PolarsBatchNode(ArrowStreamNode):
    """`process(runtime_ctx, [frame of each input]) -> frame`, batch by batch."""

    batch_format: ClassVar[BatchFormat] = "polars"

    def process(self, runtime_ctx: Any, input_dfs: list[pl.DataFrame]) -> pl.DataFrame:
        frame: pl.DataFrame = _given(self)(runtime_ctx, input_dfs)
        return frame
