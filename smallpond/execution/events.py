"""What happens in a run, for those who watch: progress, reports, explain(analyze=True)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from threefs.smallpond.execution.stage import Stage


@dataclass(frozen=True)
class TaskRecord:
    """One attempt of one task, as it ended."""

    stage: int
    task: int
    attempt: int
    state: str  # done, failed, lost, out of memory, cancelled
    host: str
    worker: str
    started: float
    seconds: float
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    rows: int | None = None
    bytes: int = 0
    detail: str = ""


@dataclass
class StageProgress:
    """Counts of one stage; `reused` results came from the store."""

    stage: Stage
    needed: int = 0
    done: int = 0
    reused: int = 0
    running: int = 0
    retried: int = 0
    speculated: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


class Observer:
    """Override what you want to see. Called by the scheduler's thread: be quick, and never raise."""

    def run_started(self, stages: Sequence[StageProgress]) -> None: ...

    def stage_changed(self, progress: StageProgress) -> None: ...

    def task_ended(self, record: TaskRecord) -> None: ...

    def run_ended(self, error: BaseException | None) -> None: ...


@dataclass
class RunRecord(Observer):
    """Keeps everything of one run, for reports."""

    stages: list[StageProgress] = field(default_factory=list)
    tasks: list[TaskRecord] = field(default_factory=list)
    error: BaseException | None = None

    def run_started(self, stages: Sequence[StageProgress]) -> None:
        self.stages = list(stages)

    def task_ended(self, record: TaskRecord) -> None:
        self.tasks.append(record)

    def run_ended(self, error: BaseException | None) -> None:
        self.error = error
