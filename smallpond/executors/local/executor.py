"""The local executor: as many lanes as CPUs, each a thread that runs items, itself or in a worker process of its own.

Items without code of the user start at once in the lanes themselves, while the nursery comes up (engines release the
GIL). Isolated items, and all items once processes are up, run in processes: a crash or kill there costs one attempt.
One rule: a lane reports every item that it took exactly once.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from collections.abc import Sequence
from dataclasses import replace

from threefs.smallpond.executors.interface import Executor, Host, Outcome, OutcomeKind, Report, Resources, WorkItem
from threefs.smallpond.executors.local.process import Nursery, Worker
from threefs.smallpond.executors.payload import run_payload
from threefs.smallpond.executors.placement import Placement

MEMORY_SHARE = 0.8  # of the host's memory; the rest is for the driver, the page cache and everybody else


def host_resources() -> Resources:
    """What this machine lends to tasks: the CPUs that this process may use, and most of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Resources(len(os.sched_getaffinity(0)), 0.0, int(min(memory, _cgroup_limit()) * MEMORY_SHARE))


def _cgroup_limit() -> int:
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return int(file.read())
    except (OSError, ValueError):  # no such file, or "max"
        return 1 << 62


class LocalExecutor(Executor):
    """`lanes` defaults to the CPUs; `processes=False` keeps everything in threads (isolated items too)."""

    name = "local"

    def __init__(
        self,
        resources: Resources | None = None,
        *,
        lanes: int | None = None,
        processes: bool = True,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.resources = resources or host_resources()
        self._host = Host(platform.node() or "localhost", self.resources)
        self._lane_count = lanes or self.resources.cpus
        self._processes = processes
        self._environment = environment or {}
        self._wake = threading.Condition()
        self._placement = Placement()
        self._placement.add_host(self._host)
        self._running: dict[str, Worker | None] = {}
        self._cancelled: set[str] = set()
        self._workers: list[Worker | None] = [None] * self._lane_count
        self._lanes: list[threading.Thread] = []
        self._nursery: Nursery | None = None
        self._nursery_ready = threading.Event()
        self._closed = False
        self._report: Report | None = None

    # ---- the interface ----

    def start(self, report: Report) -> None:
        self._report = report

    def hosts(self) -> Sequence[Host]:
        return [self._host]

    def submit(self, item: WorkItem) -> None:
        assert self._report is not None, "start() comes first"
        assert self.resources.covers(item.request), f"{item.label} asks for {item.request}, host has {self.resources}"
        with self._wake:
            assert not self._closed, "the executor is closed"
            self._placement.enqueue(item)
            if item.isolated:
                self._start_nursery()
            if len(self._lanes) < self._lane_count:
                self._start_lane()
            self._wake.notify()

    def cancel(self, item_id: str) -> None:
        with self._wake:
            if self._placement.withdraw(item_id):
                outcome = Outcome(item_id, OutcomeKind.CANCELLED)
            elif item_id in self._running:
                self._cancelled.add(item_id)
                worker = self._running[item_id]
                if worker is not None:
                    worker.kill()
                return
            else:
                return
        self._tell(outcome)

    def close(self) -> None:
        with self._wake:
            if self._closed:
                return
            self._closed = True
            for item_id, worker in self._running.items():
                self._cancelled.add(item_id)
                if worker is not None:
                    worker.kill()
            self._wake.notify_all()
        if self._nursery is not None and not self._nursery_ready.is_set():
            self._nursery.close()  # nobody waits for it to come up any more
        for lane in self._lanes:
            lane.join()
        for worker in self._workers:
            if worker is not None:
                worker.close()
        if self._nursery is not None:
            self._nursery.close()

    def warm_up(self) -> None:
        """Bring the nursery up in the background: worth it as soon as a run proves longer than a moment."""
        with self._wake:
            if not self._closed:
                self._start_nursery()

    def worker_pids(self) -> list[int]:
        """The worker processes that are alive now."""
        return [worker.pid for worker in self._workers if worker is not None]

    # ---- lanes ----

    def _start_nursery(self) -> None:
        if not self._processes or self._nursery is not None:
            return
        self._nursery = nursery = Nursery(self._environment)

        def wait_until_up() -> None:
            with contextlib.suppress(EOFError):  # closed or broken: the lanes meet the same error and report it
                self._workers[0] = nursery.fork()
            self._nursery_ready.set()

        threading.Thread(target=wait_until_up, name="smallpond-nursery", daemon=True).start()

    def _start_lane(self) -> None:
        index = len(self._lanes)
        lane = threading.Thread(target=self._lane, args=(index,), name=f"smallpond-lane-{index}", daemon=True)
        self._lanes.append(lane)
        lane.start()

    def _lane(self, index: int) -> None:
        while True:
            with self._wake:
                placed = self._placement.place_next()
                while placed is None and not self._closed:
                    self._wake.wait()
                    placed = self._placement.place_next()
                if self._closed:
                    return
                assert placed is not None
                item = placed[0]
                self._running[item.id] = None
            outcome = self._run(index, item)
            with self._wake:
                del self._running[item.id]
                self._placement.release(item.id)
                cancelled = item.id in self._cancelled
                self._cancelled.discard(item.id)
                self._wake.notify_all()
            if cancelled and outcome.kind is not OutcomeKind.DONE:
                outcome = Outcome(item.id, OutcomeKind.CANCELLED)
            self._tell(replace(outcome, host=self._host.name))

    def _run(self, index: int, item: WorkItem) -> Outcome:
        if not self._processes or (not item.isolated and not self._nursery_ready.is_set()):
            return replace(run_payload(item.id, item.payload), worker=f"thread {index}")
        try:
            worker = self._worker(index)
        except EOFError as exc:
            return Outcome(item.id, OutcomeKind.LOST, detail=str(exc))
        with self._wake:
            self._running[item.id] = worker
            if item.id in self._cancelled:
                return Outcome(item.id, OutcomeKind.CANCELLED)
        outcome = worker.run(item)
        with self._wake:
            self._running[item.id] = None  # a cancel from here on kills nobody
            killed = item.id in self._cancelled
        if outcome.kind is OutcomeKind.LOST:
            self._workers[index] = None
        elif killed:  # it answered before the signal came: the next item must not meet a dying worker
            self._workers[index] = None
            worker.close()
        return replace(outcome, worker=f"process {worker.pid}")

    def _worker(self, index: int) -> Worker:
        assert self._nursery is not None
        self._nursery_ready.wait()
        worker = self._workers[index]
        if worker is None:
            worker = self._workers[index] = self._nursery.fork()
        return worker

    def _tell(self, outcome: Outcome) -> None:
        assert self._report is not None
        self._report(outcome)
