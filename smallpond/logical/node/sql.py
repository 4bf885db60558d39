"""Nodes that run SQL, once a partition, in a DuckDB of the task's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from threefs.smallpond.common import DEFAULT_ROW_GROUP_SIZE
from threefs.smallpond.errors import PlanError
from threefs.smallpond.logical import sql_text
from threefs.smallpond.logical.node.base import Context, Node
from threefs.smallpond.logical.node.compute import ParquetOutputNode


class SqlEngineNode(ParquetOutputNode):
    """`sql_query` reads its inputs as `{0}`, `{1}` …; of several queries only the last one's rows are kept.

    `input_names` makes inputs known by name too. Spilling to disk is on: `enable_temp_directory` is accepted for
    programs that pass it. `batched_processing` runs the query over slices of the input, as large as half of the memory.
    """

    VOLATILE = ParquetOutputNode.VOLATILE | {
        "per_thread_output",
        "relax_memory_if_oom",
        "cpu_overcommit_ratio",
        "memory_overcommit_ratio",
    }
    max_udf_cpu_limit: ClassVar[int] = 3
    default_cpu_limit: ClassVar[int] = 1
    default_memory_limit: ClassVar[int | None] = None
    default_row_group_size: ClassVar[int] = DEFAULT_ROW_GROUP_SIZE

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        sql_query: str | Iterable[str],
        *,
        udfs: Sequence[Any] | None = None,
        per_thread_output: bool = True,
        materialize_output: bool = True,
        materialize_in_memory: bool = False,
        relax_memory_if_oom: bool | None = None,
        batched_processing: bool = False,
        extension_paths: Sequence[str] | None = None,
        udf_module_paths: Sequence[str] | None = None,
        enable_temp_directory: bool = True,
        parquet_row_group_size: int | None = None,
        parquet_dictionary_encoding: bool = False,
        parquet_compression: str = "ZSTD",
        parquet_compression_level: int | None = 1,
        output_name: str | None = None,
        output_path: str | None = None,
        cpu_limit: int | None = None,
        memory_limit: int | None = None,
        cpu_overcommit_ratio: float = 1.0,
        memory_overcommit_ratio: float = 0.9,
        input_names: Sequence[str] = (),
    ) -> None:
        queries = (sql_query,) if isinstance(sql_query, str) else tuple(sql_query)
        if not queries or not all(isinstance(query, str) and query.strip() for query in queries):
            raise PlanError("an SQL step needs a query")
        cpus = cpu_limit or self.default_cpu_limit
        functions = ctx.resolve_udfs(udfs or [])
        functions += [ctx.udfs[ctx.create_external_module(path)] for path in udf_module_paths or []]
        functions += [ctx.udfs[ctx.create_duckdb_extension(path)] for path in extension_paths or []]
        if functions:
            cpus = min(cpus, self.max_udf_cpu_limit)  # Python functions run one at a time
        super().__init__(ctx, input_deps, output_name, output_path, cpus, 0, memory_limit or self.default_memory_limit)
        self.sql_queries = tuple(query.strip().rstrip(";").rstrip() for query in queries)
        self.udfs = functions
        self.input_names = tuple(input_names)
        self.materialize_output = materialize_output
        self.relax_memory_if_oom = relax_memory_if_oom is not False
        self.batched_processing = batched_processing and len(self.input_deps) == 1
        self.per_thread_output = per_thread_output
        self.cpu_overcommit_ratio = cpu_overcommit_ratio
        self.memory_overcommit_ratio = memory_overcommit_ratio
        self.set_parquet_options(
            parquet_row_group_size, parquet_dictionary_encoding, parquet_compression, parquet_compression_level
        )
        for query in self.sql_queries:
            sql_text.check(query, len(self.input_deps), self.input_names)

    @property
    def runs_udfs(self) -> bool:
        return bool(self.udfs)

    @property
    def oneline_query(self) -> str:
        return "; ".join(" ".join(query.split()) for query in self.sql_queries)

    def details(self) -> str:
        text = self.label or self.oneline_query
        return text if len(text) <= 200 else text[:200] + " …"


class LimitNode(SqlEngineNode):
    """The first `limit` rows in partition order: a limit in each partition, then one over all."""

    def __init__(self, ctx: Context, input_dep: Node, limit: int) -> None:
        if limit < 0:
            raise PlanError(f"limit {limit}: give a number of rows, not below 0")
        super().__init__(ctx, (input_dep,), f"SELECT * FROM {{0}} LIMIT {limit}")
        self.limit = limit

    @property
    def num_partitions(self) -> int:
        return 1

    def details(self) -> str:
        return str(self.limit)
