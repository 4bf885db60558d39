"""The scheduler: walks a physical plan with an executor, and survives what happens to tasks.

One thread, the caller's: it sends bundles of ready tasks, sleeps until an outcome arrives, and follows it up. Later
stages go first, so that results are used while they are warm. What is ready is known to the `Frontier`; what was sent
is in `_flights`. One rule: every task that is needed ends up with exactly one result, or the run raises.
"""

from __future__ import annotations

import errno
import queue
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from threefs.smallpond.errors import InfeasibleTask, JobCancelled, TaskFailed
from threefs.smallpond.execution.events import Observer, TaskRecord
from threefs.smallpond.execution.frontier import Frontier, StageRun, with_columns
from threefs.smallpond.execution.operators import run_operator
from threefs.smallpond.execution.policy import BundlePolicy, RetryPolicy, SpeculationPolicy
from threefs.smallpond.execution.program import Bundle, TaskReport, TaskSpec, dump_bundle, load_reports
from threefs.smallpond.execution.programs import ProgramStore
from threefs.smallpond.execution.results import ResultStore, StoredResult
from threefs.smallpond.execution.runtime_ctx import RuntimeContext, TaskContext
from threefs.smallpond.execution.stage import Output, PhysicalPlan, Stage
from threefs.smallpond.executors.interface import Executor, Outcome, OutcomeKind, Resources, WorkItem
from threefs.smallpond.executors.payload import Failure, loads
from threefs.smallpond.logical.dataset import DataSet

TICK = 0.25  # seconds between looks at stragglers and at hosts that join
NO_HOST_SECONDS = 300.0  # how long a run waits for the first host of an elastic executor


@dataclass
class _Flight:
    stage: int
    tasks: list[int]
    attempts: dict[int, int]
    submitted: float
    request: Resources


class Scheduler:
    """Runs plans one at a time. The executor's reports go into a queue that only `run` empties."""

    def __init__(
        self,
        context: RuntimeContext,
        executor: Executor,
        store: ResultStore,
        *,
        observers: Sequence[Observer] = (),
        retry: RetryPolicy | None = None,
        speculation: SpeculationPolicy | None = None,
        bundling: BundlePolicy | None = None,
    ) -> None:
        self._context = context
        self._executor = executor
        self._store = store
        self.observers = list(observers)
        self._retry = retry or RetryPolicy()
        self._speculation = speculation or SpeculationPolicy()
        self._bundling = bundling or BundlePolicy()
        self._programs = ProgramStore(context)
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        executor.start(self._outcomes.put)

    # ---- a run ----

    def run(self, plan: PhysicalPlan, roots: Sequence[Output], run_id: str = "") -> list[list[DataSet | None]]:
        """For each root, the data set of every partition. Raises the first failure that is final, after everything
        that still ran was stopped."""
        self._run_id = run_id or uuid.uuid4().hex[:12]
        self._frontier = Frontier(plan, roots, self._store)
        self._runs = self._frontier.runs
        self._flights: dict[str, _Flight] = {}
        self._items = 0
        self._tell(lambda observer: observer.run_started([run.progress for run in self._runs if run.needed]))
        error: BaseException | None = None
        try:
            self._loop()
            return [self._frontier.collect(output) for output in roots]
        except BaseException as exc:
            error = JobCancelled("interrupted") if isinstance(exc, KeyboardInterrupt) else exc
            self._stop_everything()
            raise
        finally:
            self._tell(lambda observer: observer.run_ended(error))

    def _loop(self) -> None:
        quiet_since = time.monotonic()
        while not self._frontier.complete():
            self._dispatch()
            if self._frontier.complete():
                return  # by what runs in the driver
            if not self._flights:
                self._check_hosts(quiet_since)
            outcomes = self._wait()
            if outcomes:
                quiet_since = time.monotonic()
            for outcome in outcomes:
                self._follow_up(outcome)
            self._race_stragglers()

    def _wait(self) -> list[Outcome]:
        """The outcomes that have arrived; waits for the first one, at most a tick."""
        found: list[Outcome] = []
        try:
            found.append(self._outcomes.get(timeout=TICK if self._flights else 0.01))
            while True:
                found.append(self._outcomes.get_nowait())
        except queue.Empty:
            return found

    def _check_hosts(self, quiet_since: float) -> None:
        """Nothing runs though something is to be done: only right while hosts are still expected."""
        if any(run.ready for run in self._runs):
            waited = time.monotonic() - quiet_since
            if not self._executor.expects_hosts() or waited > NO_HOST_SECONDS:
                raise InfeasibleTask(f"executor {self._executor.name} has no host to run on after {waited:.0f} s")

    # ---- sending ----

    def _slots(self) -> int:
        return max(1, sum(host.total.cpus for host in self._executor.hosts()))

    def _dispatch(self) -> None:
        """Keep every core busy and a bundle queued behind it; driver stages run here and now."""
        for run in self._runs:  # in order: one may make the next one ready
            while run.stage.kind == "driver" and run.ready:
                self._run_here(run, run.ready.popleft())
        slots = self._slots()
        for run in reversed(self._runs):
            while run.ready:
                if len(self._flights) >= 2 * slots:
                    return
                if not self._feasible(run, run.ready[0]):
                    break
                self._send_next(run, slots)

    def _send_next(self, run: StageRun, slots: int) -> None:
        recent = run.durations[-64:]
        count = self._bundling.size(len(run.ready), slots, len(recent), sum(recent))
        first = run.ready.popleft()
        tasks = [first]
        if first not in run.alone:
            while run.ready and len(tasks) < count and run.ready[0] not in run.alone:
                tasks.append(run.ready.popleft())
        self._submit(run, tasks)

    def _feasible(self, run: StageRun, task: int) -> bool:
        """False: wait for hosts. Raises when no host can ever run it."""
        request = run.requests.get(task, run.stage.request)
        hosts = self._executor.hosts()
        if any(host.total.covers(request) for host in hosts):
            return True
        if self._executor.expects_hosts():
            return False
        shown = "; ".join(f"{host.name} has {host.total}" for host in hosts) or "there is no host"
        raise InfeasibleTask(
            f"{run.stage.title} (made at {run.stage.node.location}) asks for {request}, and no host can give it: "
            f"{shown}. Lower cpu_limit, gpu_limit or memory_limit, or add a larger host"
        )

    def _submit(self, run: StageRun, tasks: list[int]) -> None:
        stage = run.stage
        request = run.requests.get(tasks[0], stage.request)
        program, program_id = self._programs.of(stage.node)
        specs, attempts = [], {}
        for task in tasks:
            run.attempts[task] += 1
            attempts[task] = run.attempts[task]
            specs.append(TaskSpec(task, attempts[task], stage.partitions[task], self._frontier.inputs(stage, task)))
        bundle = Bundle(
            self._task_context(stage, request), program, program_id, stage.role, stage.kind != "sink", specs
        )
        self._items += 1
        item_id = f"{self._run_id}.{self._items}"
        self._flights[item_id] = _Flight(stage.id, tasks, attempts, time.monotonic(), request)
        for task in tasks:
            run.flying[task].add(item_id)
        run.progress.running += len(tasks)
        isolated = stage.isolated or request.memory_bytes == 0
        self._executor.submit(WorkItem(item_id, dump_bundle(bundle), request, stage.title, isolated))

    def _task_context(self, stage: Stage, request: Resources) -> TaskContext:
        return TaskContext(
            **self._context.__dict__,
            run_id=self._run_id,
            stage_key=stage.key,
            step=f"{stage.node.name} made at {stage.node.location}",
            cpu_limit=request.cpus,
            gpu_limit=request.gpus,
            memory_limit=request.memory_bytes,
            output_dir=self._store.folder(stage.key),
        )

    def _run_here(self, run: StageRun, task: int) -> None:
        """Bookkeeping over descriptors: cheaper here than sending them anywhere."""
        context = replace(
            self._task_context(run.stage, run.stage.request), task_index=task, partition=run.stage.partitions[task]
        )
        begin = time.perf_counter()
        dataset, rows = run_operator(run.stage.node, run.stage.role, context, self._frontier.inputs(run.stage, task))
        seconds = time.perf_counter() - begin
        self._finish(run, task, StoredResult(dataset, rows, ()), seconds, seconds)
        record = TaskRecord(run.stage.id, task, 1, "done", "driver", "driver", time.time() - seconds, seconds, seconds)
        self._tell(lambda observer: observer.task_ended(record))

    # ---- following up ----

    def _follow_up(self, outcome: Outcome) -> None:
        flight = self._flights.pop(outcome.item_id, None)
        if flight is None:
            return  # of a run before this one, or of a lost race
        run = self._runs[flight.stage]
        run.progress.running -= len(flight.tasks)
        for task in flight.tasks:
            run.flying[task].discard(outcome.item_id)
        if outcome.kind is OutcomeKind.DONE:
            for report in load_reports(outcome.value):
                self._follow_up_task(run, flight, report, outcome)
            run.progress.peak_bytes = max(run.progress.peak_bytes, outcome.peak_bytes)
        else:
            self._follow_up_loss(run, flight, outcome)
        self._tell(lambda observer: observer.stage_changed(run.progress))

    def _follow_up_task(self, run: StageRun, flight: _Flight, report: TaskReport, outcome: Outcome) -> None:
        state = "done" if report.result else "out of memory" if report.out_of_memory else "failed"
        self._record(run, flight, report, outcome, state)
        if report.index in run.results or report.index in run.columnless:
            return  # another attempt was faster
        if report.result is not None:
            self._settle(run, report.index, report.result, report.seconds, report.cpu_seconds)
            return
        failure: Failure = loads(report.failure)
        run.first_words.setdefault(report.index, f"{failure.type_name}: {failure.message}")
        if run.flying[report.index]:
            return  # another attempt still runs: it decides
        if report.out_of_memory:
            self._retry_with_more_memory(run, report.index, flight, failure)
        elif self._retry.is_final(failure):
            raise self._final(run, report.index, failure)
        else:
            run.failures[report.index] += 1
            if run.failures[report.index] >= self._retry.failures_max:
                raise self._final(run, report.index, failure)
            self._again(run, report.index)

    def _retry_with_more_memory(self, run: StageRun, task: int, flight: _Flight, failure: Failure) -> None:
        relaxes = getattr(run.stage.node, "relax_memory_if_oom", True)
        request = self._retry.more_memory(flight.request, self._executor.hosts()) if relaxes else None
        if request is None:
            raise self._final(run, task, failure)
        run.requests[task] = request
        self._again(run, task)

    def _follow_up_loss(self, run: StageRun, flight: _Flight, outcome: Outcome) -> None:
        """A worker died, or the item failed as a whole: its tasks go again, one by one."""
        for task in flight.tasks:
            report = TaskReport(task, None, started=outcome.started, seconds=outcome.seconds)
            self._record(run, flight, report, outcome, outcome.kind.value)
            if task in run.results or task in run.columnless or run.flying[task]:
                continue
            if outcome.kind is OutcomeKind.FAILED:
                raise self._final(run, task, loads(outcome.value))
            if outcome.kind is OutcomeKind.OUT_OF_MEMORY:
                words = Failure(None, "MemoryError", outcome.detail or "the worker was killed for its memory", "")
                self._retry_with_more_memory(run, task, flight, loads(outcome.value) if outcome.value else words)
                continue
            run.losses[task] += 1
            if run.losses[task] >= self._retry.losses_max:
                lost = f"its worker was lost {run.losses[task]} times: {outcome.detail}"
                raise self._final(run, task, Failure(None, "WorkerLost", lost, ""))
            self._again(run, task)

    def _again(self, run: StageRun, task: int) -> None:
        run.progress.retried += 1
        run.alone.add(task)
        run.ready.append(task)

    def _final(self, run: StageRun, task: int, failure: Failure) -> BaseException:
        """The error that the user sees: the failure itself where it explains itself, else with the step around it."""
        exc = failure.restored()
        where = f"task {task} of {run.stage.title} (made at {run.stage.node.location})"
        words = f"{failure.type_name}: {failure.message}"
        begun = run.first_words.get(task, words)
        first = "" if begun == words else f"; its first failure was {begun}"
        if exc is not None and type(exc).__module__.startswith("threefs."):
            exc.add_note(f"in {where}, attempt {run.attempts[task]}{first}")
            return exc
        advice = ""
        if failure.type_name in ("MemoryError", "ArrowMemoryError", "OutOfMemoryException"):
            advice = "; use more partitions, or raise memory_limit"
        elif getattr(exc, "errno", None) == errno.ENOSPC:
            advice = f"; free space there, or on the disk of data_root {self._context.data_root}"
        error = TaskFailed(f"{where} failed for good after {run.attempts[task]} attempts: {words}{advice}{first}")
        error.__cause__ = exc
        if exc is None and failure.trace:
            error.add_note(failure.trace)
        return error

    def _settle(self, run: StageRun, task: int, result: StoredResult, seconds: float, cpu: float) -> None:
        """All partitions of a step have the same columns: one whose function saw no row waits for one that knows."""
        if result.dataset.has_no_columns:
            run.columnless[task] = result, seconds, cpu
        else:
            self._finish(run, task, result, seconds, cpu)
        if not run.columnless:
            return
        whole = with_columns(run.results | {index: found for index, (found, _, _) in run.columnless.items()})
        last = len(run.results) + len(run.columnless) >= len(run.needed)
        for index, (_, wall, work) in list(run.columnless.items()):
            if last or not whole[index].dataset.has_no_columns:
                del run.columnless[index]
                self._finish(run, index, whole[index], wall, work)

    def _finish(self, run: StageRun, task: int, result: StoredResult, seconds: float, cpu: float) -> None:
        run.results[task] = result
        run.durations.append(seconds)
        progress = run.progress
        progress.done += 1
        progress.rows += result.rows or 0
        progress.bytes += sum(size for _, size in result.files)
        progress.seconds += seconds
        progress.cpu_seconds += cpu
        for rival in list(run.flying[task]):
            flight = self._flights.get(rival)
            if flight is not None and flight.tasks == [task]:
                self._executor.cancel(rival)
        self._frontier.finished(run, task)

    # ---- stragglers, ends ----

    def _race_stragglers(self) -> None:
        """A second copy of what takes too long, where a core is free for it; the first to end wins."""
        if len(self._flights) >= self._slots():
            return
        now = time.monotonic()
        for flight in list(self._flights.values()):
            run = self._runs[flight.stage]
            task = flight.tasks[0]
            if len(flight.tasks) > 1 or task in run.raced or run.stage.kind == "sink":
                continue
            if self._speculation.is_straggler(now - flight.submitted, run.durations):
                run.raced.add(task)
                run.progress.speculated += 1
                self._submit(run, [task])

    def _stop_everything(self) -> None:
        """Cancel what is in flight and wait for it, so that nothing writes after the run has ended."""
        for item_id in list(self._flights):
            self._executor.cancel(item_id)
        deadline = time.monotonic() + 30.0
        while self._flights and time.monotonic() < deadline:
            for outcome in self._wait():
                self._flights.pop(outcome.item_id, None)
        self._flights.clear()

    def _record(self, run: StageRun, flight: _Flight, report: TaskReport, outcome: Outcome, state: str) -> None:
        result = report.result
        record = TaskRecord(
            run.stage.id,
            report.index,
            flight.attempts[report.index],
            state,
            outcome.host,
            outcome.worker,
            report.started,
            report.seconds,
            report.cpu_seconds,
            outcome.peak_bytes,
            result.rows if result else None,
            sum(size for _, size in result.files) if result else 0,
            outcome.detail,
        )
        self._tell(lambda observer: observer.task_ended(record))

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in self.observers:
            what(observer)
