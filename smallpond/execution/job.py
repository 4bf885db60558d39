"""A job: its folder, its executor and scheduler (both made when the first plan runs), and its runs.

Sessions and drivers share it. A run is: optimise, plan, schedule; sinks that fail leave nothing behind.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Sequence

from threefs.smallpond.config import SessionConfig
from threefs.smallpond.execution.events import Observer, RunRecord
from threefs.smallpond.execution.operators import sink
from threefs.smallpond.execution.planner import Planner
from threefs.smallpond.execution.policy import RetryPolicy, SpeculationPolicy
from threefs.smallpond.execution.results import ResultStore
from threefs.smallpond.execution.runtime_ctx import RuntimeContext
from threefs.smallpond.execution.scheduler import Scheduler
from threefs.smallpond.execution.stage import PhysicalPlan
from threefs.smallpond.executors.interface import Executor
from threefs.smallpond.executors.make import make_executor
from threefs.smallpond.io import filesystem
from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node import Context, DataSinkNode, Node
from threefs.smallpond.logical.node.plan import walk
from threefs.smallpond.logical.optimizer import optimize

WARM_UP_SECONDS = 0.4  # a run longer than this is worth worker processes


class Job:
    def __init__(self, config: SessionConfig, progress: Callable[[], Observer | None] = lambda: None) -> None:
        self.config = config
        self._progress = progress
        self.context = RuntimeContext(
            job_id=config.job_id,
            job_time=config.job_time,
            data_root=config.data_root,
            num_executors=config.num_executors,
            **{
                "random_seed": int.from_bytes(config.job_id.encode()[-4:].rjust(4, b"0"), "big"),
                **config.options.get("context", {}),
            },
        )
        self.store = ResultStore(self.context.results_root)
        self.runs: list[RunRecord] = []
        self.failed = False
        self.nonces: dict[int, str] = {}  # node id -> what makes its results new
        self.computed: set[int] = set()  # nodes whose results are in the store: the optimiser leaves them whole
        self._executor: Executor | None = None
        self._scheduler: Scheduler | None = None

    # ---- parts, made when they are needed ----

    @property
    def executor(self) -> Executor:
        if self._executor is None:
            self._executor = make_executor(self.config.executor, self.context, self.config)
        return self._executor

    def start(self) -> None:
        """Make the parts at once: other processes wait for them. The executor first, it may never return."""
        _ = self.executor
        _ = self.scheduler

    @property
    def scheduler(self) -> Scheduler:
        if self._scheduler is None:
            self.context.initialize()
            options = self.config.options
            self._scheduler = Scheduler(
                self.context,
                self.executor,
                self.store,
                retry=RetryPolicy(self.config.retries, options.get("losses_max") or RetryPolicy.losses_max),
                speculation=options.get("speculation") or SpeculationPolicy(),
            )
        return self._scheduler

    # ---- running ----

    def optimized(self, ctx: Context, nodes: Sequence[Node]) -> list[Node]:
        return optimize(ctx, nodes, self.computed) if self.config.optimize else list(nodes)

    def plan(self, ctx: Context, nodes: Sequence[Node]) -> tuple[PhysicalPlan, Planner]:
        planner = Planner(self.context, self.executor.hosts(), self.nonces)
        return planner.create_plans(self.optimized(ctx, nodes)), planner

    def run(
        self, ctx: Context, nodes: Sequence[Node], fresh: set[int], observer: Observer | None = None
    ) -> list[list[DataSet]]:
        """The results of several nodes, partition by partition. `fresh`: ids of nodes that must be computed anew."""
        self._refresh(nodes, fresh)
        record, run_id = RunRecord(), uuid.uuid4().hex[:12]
        self.runs.append(record)
        sinks = [node for root in nodes for node in walk(root) if isinstance(node, DataSinkNode)]
        scheduler = self.scheduler
        scheduler.observers = [watcher for watcher in (record, observer, self._progress()) if watcher is not None]
        timer = threading.Timer(WARM_UP_SECONDS, self._warm_up)
        timer.daemon = True
        timer.start()
        try:
            for node in sinks:
                sink.check_target(node)
            plan, _ = self.plan(ctx, nodes)
            found = scheduler.run(plan, plan.roots, run_id)
        except BaseException as exc:
            self.failed = True
            _end_sinks(sinks, run_id, exc)
            raise
        finally:
            timer.cancel()
        self.failed = False
        _end_sinks(sinks, run_id, None)
        self.computed.update(node.id for node in nodes)
        return [[dataset for dataset in datasets if dataset is not None] for datasets in found]

    def _refresh(self, nodes: Sequence[Node], fresh: set[int]) -> None:
        """Give every node below the fresh ones a new address."""
        for root in nodes:
            if root.id in fresh:
                nonce = uuid.uuid4().hex
                self.nonces.update({node.id: nonce for node in walk(root)})

    def _warm_up(self) -> None:
        warm_up = getattr(self._executor, "warm_up", None)
        if warm_up is not None:
            warm_up()

    # ---- the end ----

    def close(self, failed: bool) -> None:
        if self._executor is not None:
            self._executor.close()
        if self._scheduler is None:
            return  # nothing ran: nothing was made
        filesystem.write_text_atomically(self.context.job_status_path, "failure" if failed else "success")
        if failed:
            return
        doomed = [self.context.queue_root, self.context.temp_root, self.context.staging_root]
        if self.config.remove_output_root:
            doomed.append(self.context.output_root)
        for folder in doomed:
            shutil.rmtree(folder, ignore_errors=True)
        self.store.evict(self.config.keep_bytes)


def _end_sinks(sinks: Sequence[DataSinkNode], run_id: str, error: BaseException | None) -> None:
    """After a failure, trouble with taking an output back is told beside it, not instead of it."""
    for node in sinks:
        try:
            sink.end_run(node, run_id, failed=error is not None)
        except Exception as exc:
            if error is None:
                raise
            error.add_note(f"and what was staged for {node.sink_path} could not be removed: {exc}")
