"""GraySort on smallpond: the phases of `tasks` as data frames, one partition a task, on any of its executors.

Retries, workers of other machines and reports are smallpond's. Each phase is one data frame whose rows are the tasks;
what a task answers is one row of the result.
"""

from __future__ import annotations

import pickle
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from threefs import smallpond
from threefs.common.errors import UserError
from threefs.workloads.graysort import tasks
from threefs.workloads.graysort.records import RECORD_BYTES, Summary
from threefs.workloads.graysort.report import JobReport, Phase, checked
from threefs.workloads.graysort.sort import range_bytes
from threefs.workloads.graysort.splitters import SAMPLES_PER_RANGE, sample, splitters_of
from threefs.workloads.graysort.tasks import Layout

T = TypeVar("T")
Engine = Literal["local", "ray"]


class Crew(Protocol):
    """Runs tasks somewhere; answers come in the order of the tasks."""

    def run(self, work: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> list[T]: ...


class InOrder:
    """One after the other, here."""

    def run(self, work: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> list[T]:
        return [work(*call) for call in calls]


@dataclass(slots=True)
class SmallpondCrew:
    """Each call is a partition of one row in a data frame of its own run."""

    session: smallpond.Session
    job: str = field(default_factory=lambda: uuid.uuid4().hex)  # no results of another run: files are their effect

    def run(self, work: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> list[T]:
        rows = [
            {"job": self.job, "number": number, "call": pickle.dumps((work, call))} for number, call in enumerate(calls)
        ]
        frame = self.session.from_items(rows).repartition(len(rows), by_rows=True).map(run_row)
        found = sorted(frame.take_all(), key=lambda row: row["number"])
        assert [row["number"] for row in found] == list(range(len(calls))), (
            f"{len(found)} answers to {len(calls)} calls"
        )
        return [pickle.loads(row["answer"]) for row in found]


def run_row(row: dict[str, Any]) -> dict[str, Any]:
    """A task, on the worker. What it pickles was pickled by this program and travels inside the job's folder."""
    work, call = pickle.loads(row["call"])
    return {"number": row["number"], "answer": pickle.dumps(work(*call))}


def run_on_smallpond(
    folder: Path,
    count: int,
    *,
    engine: Engine = "local",
    workers: int = 2,
    skewed: bool = False,
    memory_bytes: int = 1 << 30,
    sync: bool = True,
    ray_address: str | None = None,
) -> JobReport:
    """Generates, sorts and validates `count` records in a folder that all workers share; removes its files.

    `memory_bytes` is what all tasks that run at a time use together. UserError if the output is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="job-", dir=folder) as place:
        options = {"lanes": workers} if engine == "local" else {}
        session = smallpond.init(
            data_root=str(Path(place, "smallpond")),
            executor=engine,
            ray_address=ray_address,
            progress=False,
            executor_options=options,
        )
        try:
            layout = Layout(place, skewed=skewed, sync=sync)
            return run_tasks(SmallpondCrew(session), layout, count, workers=workers, memory_bytes=memory_bytes)
        finally:
            session.shutdown()


def run_tasks(crew: Crew, layout: Layout, count: int, *, workers: int, memory_bytes: int) -> JobReport:
    """The job on any crew. The files stay."""
    if count < workers:
        raise UserError(f"{count} records are fewer than {workers} workers", "choose more records")
    size = count * RECORD_BYTES
    firsts = [count * number // workers for number in range(workers + 1)]
    sources = [(layout, number, firsts[number], firsts[number + 1] - firsts[number]) for number in range(workers)]
    ranges = max(workers, -(-size // range_bytes(memory_bytes, workers)))
    clock = _Clock(size)
    made = sum(crew.run(tasks.generate, sources), Summary())
    clock.ends("generate")
    wanted = SAMPLES_PER_RANGE * ranges // workers
    keys = crew.run(sample, [(layout.source(number), wanted) for number in range(workers)])
    splitters = splitters_of([key for found in keys for key in found], ranges)
    runs = crew.run(tasks.partition, [(layout, number, splitters) for number in range(workers)])
    clock.ends("partition")
    crew.run(tasks.sort, [(layout, number, runs) for number in range(ranges)])
    clock.ends("sort")
    found = sum(crew.run(tasks.validate, [(layout, number) for number in range(ranges)]), Summary())
    clock.ends("validate")
    return checked(made, found, skewed=layout.skewed, spilled=True, phases=tuple(clock.phases))


class _Clock:
    def __init__(self, size: int) -> None:
        self.phases: list[Phase] = []
        self._size = size
        self._began = time.monotonic()

    def ends(self, name: str) -> None:
        now = time.monotonic()
        self.phases.append(Phase(name, now - self._began, self._size))
        self._began = now
