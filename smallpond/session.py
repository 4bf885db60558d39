"""The session: makes data frames, and runs their plans on an executor.

Owns the job's folder, the executor and the store of results. One rule: a session that ends well leaves nothing behind
but the outputs that were asked for and the reusable results; one that fails leaves everything for a look. What runs
plans (scheduler, engines) is imported with the first of them, so that a session starts in a moment.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from threefs.smallpond.config import SessionConfig
from threefs.smallpond.dataframe import DataFrame
from threefs.smallpond.errors import PlanError
from threefs.smallpond.io import filesystem
from threefs.smallpond.logical.dataset import (
    ArrowTableDataSet,
    CsvDataSet,
    DataSet,
    JsonDataSet,
    PandasDataSet,
    ParquetDataSet,
)
from threefs.smallpond.logical.dataset.memory import table_from_items, table_from_polars
from threefs.smallpond.logical.node import Context, DataSourceNode, LogicalPlan, Node, RootNode, SqlEngineNode

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from threefs.smallpond.execution.events import Observer, RunRecord
    from threefs.smallpond.execution.job import Job


class Session:
    """Made by `smallpond.init`. Also a context manager: leaving it shuts it down."""

    def __init__(self, **arguments: Any) -> None:
        self.config = SessionConfig.resolve(arguments)
        if os.environ.get("SP_SPAWN") == "1":
            _spawn_this_script(self.config)
        self._ctx = Context()
        self._frames: list[Node] = []
        self._lock = threading.RLock()
        self._open = True
        if self.config.executor == "mpi":
            self._job.start()  # only rank 0 comes back from here
        atexit.register(self.shutdown)

    @functools.cached_property
    def _job(self) -> Job:
        from threefs.smallpond.execution.job import Job
        from threefs.smallpond.report.progress import progress_observer

        return Job(self.config, lambda: progress_observer(self.config.progress))

    @property
    def runtime_ctx(self) -> Any:
        return self._job.context

    # ---- readers ----

    def read_parquet(
        self,
        paths: str | Sequence[str],
        recursive: bool = False,
        columns: list[str] | None = None,
        union_by_name: bool = False,
        hive_partitioning: bool = False,
    ) -> DataFrame:
        """Files, folders and patterns, local or URLs. `hive_partitioning` adds the keys of `key=value` folders."""
        dataset = ParquetDataSet(
            paths, "", recursive, columns, union_by_name=union_by_name, hive_partitioning=hive_partitioning
        )
        return self._from_dataset(dataset)

    def read_csv(
        self,
        paths: str | Sequence[str],
        schema: Mapping[str, str] | None = None,
        delim: str = ",",
        header: bool | None = None,
    ) -> DataFrame:
        """With a schema (column -> DuckDB type) there is no header line unless `header`; without one, DuckDB infers."""
        known = False if header is None and schema is not None else header
        return self._from_dataset(CsvDataSet(paths, schema, delim, header=known))

    def read_json(self, paths: str | Sequence[str], schema: Mapping[str, str] | None = None) -> DataFrame:
        """Newline-delimited JSON."""
        return self._from_dataset(JsonDataSet(paths, schema))

    def from_items(self, items: Sequence[Any]) -> DataFrame:
        """Dictionaries become columns, anything else one column `item`."""
        return self.from_arrow(table_from_items(items))

    def from_arrow(self, table: pa.Table) -> DataFrame:
        return self._from_dataset(ArrowTableDataSet(table))

    def from_pandas(self, df: pd.DataFrame) -> DataFrame:
        return self._from_dataset(PandasDataSet(df))

    def from_polars(self, df: pl.DataFrame | pl.LazyFrame) -> DataFrame:
        return self.from_arrow(table_from_polars(df))

    def _from_dataset(self, dataset: DataSet) -> DataFrame:
        return DataFrame(self, DataSourceNode(self._ctx, dataset))

    # ---- queries ----

    def partial_sql(self, query: str, *inputs: DataFrame, **kwargs: Any) -> DataFrame:
        """Run a query once a partition: inputs are `{0}`, `{1}` …, or names: `partial_sql("… {a} …", a=df)`.

        An input with fewer dimensions is read whole by every partition. Other keywords are the node's.
        """
        named = {name: kwargs.pop(name) for name in list(kwargs) if isinstance(kwargs[name], DataFrame)}
        frames = [*inputs, *named.values()]
        names = ("",) * len(inputs) + tuple(named)
        node = SqlEngineNode(self._ctx, tuple(f.plan for f in frames), query, input_names=names, **kwargs)
        return DataFrame(self, node, recompute=any(frame.need_recompute for frame in frames))

    def wait(self, *dfs: DataFrame) -> None:
        """Compute several frames in one run, sharing what they have in common."""
        self.compute_all(dfs)

    def compute_all(self, dfs: Sequence[DataFrame]) -> None:
        todo = [df for df in dfs if not df.is_computed()]
        if not todo:
            return
        results = self.execute([df.plan for df in todo], {df.plan.id for df in todo if df.need_recompute})
        for df, result in zip(todo, results, strict=True):
            df.set_result(result)

    def execute(
        self, nodes: Sequence[Node], fresh: set[int] | None = None, observer: Observer | None = None
    ) -> list[list[DataSet]]:
        """Run plans; for each, the data set of every partition."""
        with self._lock:
            if not self._open:
                raise PlanError("the session is shut down: call smallpond.init() for a new one")
            self._frames.extend(nodes)
            return self._job.run(self._ctx, nodes, fresh or set(), observer)

    # ---- looking at it ----

    def schema_of(self, node: Node) -> pa.Schema:
        """The columns of a node's rows: inferred where that can be done, else from a first row that is computed."""
        from threefs.smallpond.logical.schema import infer_schema

        found = infer_schema(node)
        if found is not None:
            return found
        (datasets,) = self.execute([node])
        return datasets[0].schema() if datasets else pa.schema([])

    def explain(self, node: Node, analyze: bool) -> str:
        from threefs.smallpond.report.explain import explain_text

        return explain_text(self._job, self._ctx, node, analyze)

    def plan_of(self, nodes: Sequence[Node]) -> LogicalPlan:
        return LogicalPlan(self._ctx, RootNode(self._ctx, nodes))

    def graph(self) -> str:
        """All plans that ran, in Graphviz' language."""
        return self.plan_of(self._frames).graph()

    def dump_graph(self, path: str | None = None) -> str:
        target = path or os.path.join(self._job.context.log_root, "graph.dot")
        filesystem.write_text_atomically(target, self.graph())
        return target

    def dump_timeline(self, path: str | None = None) -> str:
        """The HTML report of all runs so far: timeline, stages, tasks."""
        from threefs.smallpond.report.html import render_report

        target = path or self.config.report_path or os.path.join(self._job.context.log_root, "report.html")
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        filesystem.write_text_atomically(target, render_report(self._job.context, self._job.runs))
        return target

    @property
    def runs(self) -> list[RunRecord]:
        """What happened in each run, oldest first."""
        return self._job.runs

    # ---- the end ----

    def shutdown(self) -> None:
        """Stop the executor and remove what is not to be kept. Idempotent; runs at exit too."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        atexit.unregister(self.shutdown)
        if "_job" not in vars(self):
            return  # nothing ran
        if self.config.report_path and self._job.runs:
            self.dump_timeline()
        self._job.close(failed=self._job.failed or sys.exc_info()[0] is not None)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "" if self._open else ", shut down"
        return f"<smallpond session {self.config.job_id} on {self.config.executor}{state}>"


def _spawn_this_script(config: SessionConfig) -> NoReturn:
    """The platform runs the script from its beginning, as this job; here is nothing left to do."""
    from threefs.smallpond.platform import get_platform

    known = {name: value for name, value in os.environ.items() if name.startswith("SP_")}
    same_job = {"SP_JOBID": config.job_id, "SP_JOB_TIME": config.job_time.isoformat(), "SP_DATA_ROOT": config.data_root}
    environment = {**known, **same_job, "SP_SPAWN": "0"}
    script = os.path.abspath(sys.argv[0])
    names = get_platform(config.platform).start_job(1, script, sys.argv[1:], environment, config.platform_options)
    print(f"job {config.job_id} is started ({', '.join(names) or 'unnamed'}): {script}", file=sys.stderr)
    sys.exit(0)
