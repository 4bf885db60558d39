"""Nodes that run the user's Python on whole partitions: Arrow tables, pandas or Polars frames, or just files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from threefs.smallpond.common import DEFAULT_ROW_GROUP_SIZE
from threefs.smallpond.errors import PlanError
from threefs.smallpond.io.arrow import ParquetOptions
from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node.base import Context, Node

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

BatchFormat = Literal["arrow", "pandas", "polars"]  # what a function is given; it may return any of them


class PythonScriptNode(Node):
    """`process(runtime_ctx, input_datasets, output_path) -> bool`: the files that it writes there are the result."""

    runs_user_code = True

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        *,
        process_func: Callable[[Any, list[DataSet], str], bool] | None = None,
        output_name: str | None = None,
        output_path: str | None = None,
        cpu_limit: int = 1,
        gpu_limit: float = 0,
        memory_limit: int | None = None,
    ) -> None:
        super().__init__(ctx, input_deps, output_name, output_path, cpu_limit, gpu_limit, memory_limit)
        self.process_func = process_func

    def process(self, runtime_ctx: Any, input_datasets: list[DataSet], output_path: str) -> bool:
        """Override it, or pass `process_func`. False fails the task."""
        return bool(_given(self)(runtime_ctx, input_datasets, output_path))

    def details(self) -> str:
        return function_name(self)


class ParquetOutputNode(Node):
    """Base of nodes whose rows are written as parquet: compression and row groups."""

    default_row_group_size: ClassVar[int] = DEFAULT_ROW_GROUP_SIZE

    def set_parquet_options(
        self,
        row_group_size: int | None,
        dictionary_encoding: bool,
        compression: str,
        compression_level: int | None,
    ) -> None:
        self.parquet_options = ParquetOptions(
            row_group_size or self.default_row_group_size, dictionary_encoding, compression, compression_level
        )


class ArrowComputeNode(ParquetOutputNode):
    """`process(runtime_ctx, input_tables) -> table`, once a partition."""

    runs_user_code = True
    batch_format: ClassVar[BatchFormat] = "arrow"

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        *,
        process_func: Callable[[Any, list[pa.Table]], pa.Table] | None = None,
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
        self.use_duckdb_reader = use_duckdb_reader
        self.set_parquet_options(
            parquet_row_group_size, parquet_dictionary_encoding, parquet_compression, parquet_compression_level
        )

    def process(self, runtime_ctx: Any, input_tables: list[pa.Table]) -> pa.Table:
        """Override it, or pass `process_func`."""
        return _given(self)(runtime_ctx, input_tables)

    def details(self) -> str:
        return function_name(self)


class PandasComputeNode(ArrowComputeNode):
    """`process(runtime_ctx, input_dfs) -> frame`, once a partition."""

    batch_format = "pandas"

    def process(self, runtime_ctx: Any, input_dfs: list[pd.DataFrame]) -> pd.DataFrame:
        frame: pd.DataFrame = _given(self)(runtime_ctx, input_dfs)
        return frame


class PolarsComputeNode(ArrowComputeNode):
    """`process(runtime_ctx, input_dfs) -> frame`, once a partition; columns are shared with Arrow, not copied."""

    batch_format = "polars"

    def process(self, runtime_ctx: Any, input_dfs: list[pl.DataFrame]) -> pl.DataFrame:
        frame: pl.DataFrame = _given(self)(runtime_ctx, input_dfs)
        return frame


def _given(node: Any) -> Callable[..., Any]:
    if node.process_func is None:
        raise PlanError(
            f"{node.name} (made at {node.location}) has nothing to run: pass process_func or override process"
        )
    found: Callable[..., Any] = node.process_func
    return found


def function_name(node: Any) -> str:
    """The name of the user's function, or of the class that overrides `process`."""
    function = getattr(node, "label", "") or node.process_func or type(node)
    inner = getattr(function, "func", function)  # functools.partial
    return (
        function if isinstance(function, str) else str(getattr(inner, "__qualname__", inner)).replace("<locals>.", "")
    )
