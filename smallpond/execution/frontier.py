"""The frontier of a run: which tasks are needed, what each one waits for, and which are ready now.

The scheduler sends what is ready and says what was finished; nothing here runs anything. One rule: a task is released
once, when the last result or barrier that it waits for is there.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from threefs.smallpond.execution.events import StageProgress
from threefs.smallpond.execution.results import ResultStore, StoredResult
from threefs.smallpond.execution.stage import Output, PhysicalPlan, Ref, Slot, Stage
from threefs.smallpond.executors.interface import Resources
from threefs.smallpond.io.plain import empty_table
from threefs.smallpond.logical.dataset import ArrowTableDataSet, DataSet, merge_datasets
from threefs.smallpond.logical.dataset.partitioned import PartitionedDataSet, ShuffleParts


@dataclass
class StageRun:
    """A stage as it goes. Invariant: every needed task is in exactly one of waiting, ready, flying, columnless,
    results."""

    stage: Stage
    progress: StageProgress
    results: dict[int, StoredResult] = field(default_factory=dict)
    needed: set[int] = field(default_factory=set)
    waiting: dict[int, int] = field(default_factory=dict)  # task -> results and barriers that it waits for
    ready: deque[int] = field(default_factory=deque)
    flying: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))  # task -> items that run it
    attempts: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    failures: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    first_words: dict[int, str] = field(default_factory=dict)  # of each task that failed, how it failed first
    losses: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    columnless: dict[int, tuple[StoredResult, float, float]] = field(default_factory=dict)  # see `Scheduler._settle`
    requests: dict[int, Resources] = field(default_factory=dict)  # where it differs from the stage's
    durations: list[float] = field(default_factory=list)
    raced: set[int] = field(default_factory=set)
    alone: set[int] = field(default_factory=set)  # tasks that failed before: each in a bundle of its own

    def complete(self) -> bool:
        return len(self.results) == len(self.needed)  # nothing runs that is not needed


class Frontier:
    """The stages of one plan as they go."""

    def __init__(self, plan: PhysicalPlan, roots: Sequence[Output], store: ResultStore) -> None:
        self.runs = [StageRun(stage, StageProgress(stage)) for stage in plan.stages]
        self._dependents: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        self._barrier_dependents: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._demand(roots, store)
        self._prepare()

    def _demand(self, roots: Sequence[Output], store: ResultStore) -> None:
        """From the roots down: which tasks must run, given the results that are there already."""
        for output in roots:
            for stage in output.barriers:
                self._need_all(stage)
            for index in range(len(output.partitions)):
                for stage, task in output.needs(index):
                    self.runs[stage].needed.add(task)
        for run in reversed(self.runs):
            if not run.needed:
                continue
            if run.stage.kind in ("map", "exchange"):
                found = store.load(run.stage.key)
                run.results = with_columns({task: found[task] for task in run.needed if task in found})
                run.progress.reused = len(run.results)
            missing = [task for task in run.needed if task not in run.results]
            run.progress.needed = len(run.needed)
            run.progress.done = len(run.results)
            if missing:
                for stage in run.stage.barriers():
                    self._need_all(stage)
            for task in missing:
                for stage, upstream in run.stage.needs(task):
                    self.runs[stage].needed.add(upstream)

    def _need_all(self, stage: int) -> None:
        run = self.runs[stage]
        run.needed.update(range(run.stage.size))

    def _prepare(self) -> None:
        """Count what every missing task waits for; what waits for nothing is ready."""
        for run in self.runs:
            barriers = [stage for stage in run.stage.barriers() if not self.runs[stage].complete()]
            for task in sorted(run.needed - run.results.keys()):
                waits = len(barriers)
                for stage in barriers:
                    self._barrier_dependents[stage].append((run.stage.id, task))
                for stage, upstream in set(run.stage.needs(task)):
                    if upstream not in self.runs[stage].results:
                        self._dependents[stage, upstream].append((run.stage.id, task))
                        waits += 1
                if waits:
                    run.waiting[task] = waits
                else:
                    run.ready.append(task)

    def complete(self) -> bool:
        return all(run.complete() for run in self.runs)

    def finished(self, run: StageRun, task: int) -> None:
        """Its result is there: what waited for it may be ready."""
        self._release(self._dependents.pop((run.stage.id, task), []))
        if run.stage.id in self._barrier_dependents and run.complete():
            self._release(self._barrier_dependents.pop(run.stage.id))

    def _release(self, dependents: Iterable[tuple[int, int]]) -> None:
        for stage, task in dependents:
            run = self.runs[stage]
            run.waiting[task] -= 1
            if not run.waiting[task]:
                del run.waiting[task]
                run.ready.append(task)

    # ---- rows ----

    def inputs(self, stage: Stage, task: int) -> list[DataSet | None]:
        return [_merged([self._resolve(slot) for slot in slots]) for slots in stage.slots(task)]

    def _resolve(self, slot: Slot) -> DataSet:
        if not isinstance(slot, Ref):
            return slot
        found = self.runs[slot.stage].results[slot.task].dataset
        if slot.member is None:
            return found
        assert isinstance(found, (PartitionedDataSet, ShuffleParts)), found
        return found.part(slot.member)

    def collect(self, output: Output) -> list[DataSet | None]:
        """The rows of every partition."""
        return [
            _merged([self._resolve(slot) for slot in output.slots(index)]) for index in range(len(output.partitions))
        ]


def _merged(datasets: list[DataSet]) -> DataSet | None:
    return merge_datasets(datasets) if datasets else None


def with_columns(results: dict[int, StoredResult]) -> dict[int, StoredResult]:
    """Results without columns get those of a neighbour, where one has some."""
    lacking = [task for task, result in results.items() if result.dataset.has_no_columns]
    known = next((result for result in results.values() if not result.dataset.has_no_columns), None)
    if not lacking or known is None:
        return results
    empty = ArrowTableDataSet(empty_table(known.dataset.schema().remove_metadata()))
    return results | {task: replace(results[task], dataset=empty) for task in lacking}
