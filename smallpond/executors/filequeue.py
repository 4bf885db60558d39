"""The file-queue executor: workers on any host that share a folder with the driver, and nothing else.

The driver puts items into the queue, workers take what fits them, outcomes come back as files (see `queue_folder`).
Workers may come and go at any time. One thread looks after the folder; it alone decides that a worker is dead, and
then takes the worker's folder away, so that a worker that was only slow can report nothing about items that others got.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from threefs.smallpond.errors import PlanError
from threefs.smallpond.executors.interface import Executor, Host, Outcome, OutcomeKind, Report, WorkItem
from threefs.smallpond.executors.local.executor import host_resources
from threefs.smallpond.executors.queue_folder import (
    BEAT_SHARE,
    LEASE_SECONDS,
    POLL_SECONDS,
    Lease,
    Pulse,
    QueueFolder,
    entry_of,
    item_id_of,
)
from threefs.smallpond.executors.surroundings import worker_environment
from threefs.smallpond.executors.wakeup import Wakeup
from threefs.smallpond.platform import Platform, get_platform

FIRST_HOST_SECONDS = 30.0  # the first look at the hosts waits so long for one: plans are made for the hosts there are
NO_HOST_SECONDS = 300.0  # queued items without any worker are given up after this
ENTRYPOINT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start_worker.py")


class FileQueueExecutor(Executor):
    """`start_workers` of them are started by the platform and end with the driver; others join by hand.

    `hosts_expected` workers are waited for before a task that fits none of them is rejected.
    """

    name = "filequeue"

    def __init__(
        self,
        root: str,
        *,
        start_workers: int = 0,
        hosts_expected: int = 1,
        lease_seconds: float = LEASE_SECONDS,
        inotify: bool = True,
        environment: dict[str, str] | None = None,
        platform: Platform | None = None,
        platform_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = QueueFolder(root)
        self._start_workers = start_workers
        self._hosts_expected = max(1, hosts_expected, start_workers)
        self._lease_seconds = lease_seconds
        self._inotify = inotify
        self._environment = environment or {}
        self._platform = platform or Platform()
        self._platform_options = dict(platform_options or {})
        self._id = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._hosts: dict[str, tuple[Host, Lease]] = {}  # guarded by the condition, like all below
        self._entries: dict[str, str] = {}  # item -> entry, until its outcome is reported
        self._cancelled: set[str] = set()
        self._sequence = 0
        self._first_look = True
        self._closed = False
        self._thread: threading.Thread | None = None
        self._jobs: list[str] = []  # names that the platform gave

    # ---- the interface ----

    def start(self, report: Report) -> None:
        self._report = report
        folder = self._folder
        folder.create()
        for part in ("todo", "cancel", "done"):  # what a driver before us left
            for name in folder.list(part):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(folder.path(part, name))
        folder.write(folder.driver, self._id.encode())
        self._pulse = Pulse(folder.driver, self._lease_seconds)
        self._wakeup = Wakeup([folder.path("done"), folder.path("workers")], native=self._inotify)
        self._thread = threading.Thread(target=self._look_after, name="smallpond-filequeue", daemon=True)
        self._thread.start()
        if self._start_workers:
            self._jobs = self._start()

    def hosts(self) -> Sequence[Host]:
        with self._changed:
            if self._first_look:
                self._first_look = False
                self._changed.wait_for(lambda: self._hosts or self._closed or self._failed(), FIRST_HOST_SECONDS)
            found = [host for host, _ in self._hosts.values()]
        if not found and (statuses := self._failed()):
            raise PlanError(
                f"no worker is left: platform {self._platform} started {self._start_workers}, which ended with status "
                f"{', '.join(map(str, statuses))}; what they said is in the output of this program"
            )
        return found

    def _failed(self) -> list[int]:
        """How the workers that the platform started ended, when all did and none well."""
        found = [self._platform.exit_status(job) for job in self._jobs]
        return [status for status in found if status] if all(found) else []

    def expects_hosts(self) -> bool:
        with self._changed:
            return len(self._hosts) < self._hosts_expected

    def submit(self, item: WorkItem) -> None:
        with self._changed:
            assert not self._closed, "the executor is closed"
            assert item.id not in self._entries, f"item {item.id} submitted twice"
            self._sequence += 1
            entry = self._entries[item.id] = entry_of(self._sequence, item)
            self._folder.write(self._folder.path("todo", entry), pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL))

    def cancel(self, item_id: str) -> None:
        with self._changed:
            entry = self._entries.get(item_id)
            if entry is None:
                return
            try:
                os.unlink(self._folder.path("todo", entry))
            except FileNotFoundError:  # a worker has it
                self._cancelled.add(item_id)
                self._folder.write(self._folder.path("cancel", item_id), b"")
                return
        self._tell(Outcome(item_id, OutcomeKind.CANCELLED))

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._thread is None:
            return  # never started
        self._wakeup.wake()
        self._thread.join()
        if self._folder.driver_id() == self._id:
            os.unlink(self._folder.driver)  # workers drop what they run
            for entry in self._entries.values():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._folder.path("todo", entry))
        for job in self._jobs:
            self._platform.stop_job(job)
        self._wakeup.close()

    # ---- looking after the folder ----

    def _look_after(self) -> None:
        hostless_since = time.monotonic()
        while not self._closed:
            try:
                self._pulse.beat()
                self._check_ours()
                self._welcome()
                self._bury_dead()
                self._collect()
            except Exception as exc:  # nothing of the queue can be trusted any more: whoever waits must know
                self._lose(list(self._entries), f"the queue {self._folder.root} failed: {type(exc).__name__}: {exc}")
                if isinstance(exc, FileNotFoundError):
                    return
            if self._hosts:
                hostless_since = time.monotonic()
            elif self._failed():
                with self._changed:
                    self._changed.notify_all()  # who waits for a first host
            elif time.monotonic() - hostless_since > NO_HOST_SECONDS:
                self._lose(list(self._entries), f"no worker has been there for {NO_HOST_SECONDS:.0f} s")
            self._wakeup.wait(min(POLL_SECONDS, self._lease_seconds * BEAT_SHARE))

    def _check_ours(self) -> None:
        found = self._folder.driver_id()
        if found != self._id and not self._closed:
            raise FileNotFoundError(f"driver {found} has taken it over from {self._id}")

    def _welcome(self) -> None:
        for name in self._folder.list("workers"):
            if name not in self._hosts:
                with contextlib.suppress(FileNotFoundError):  # it left already
                    host = Host(name, self._folder.offer(name))
                    with self._changed:
                        self._hosts[name] = (host, Lease(self._folder.hello(name), self._lease_seconds))
                        self._changed.notify_all()

    def _bury_dead(self) -> None:
        """Take the folders of dead workers away; what they had is lost, unless its outcome is there."""
        for name, (_, lease) in list(self._hosts.items()):
            if lease.is_valid():
                continue
            grave = self._folder.path("dead", f"{name}.{uuid.uuid4().hex[:8]}")
            with contextlib.suppress(FileNotFoundError):  # it left by itself, and gave back what it had
                os.rename(self._folder.path("workers", name), grave)
            with self._changed:
                del self._hosts[name]
            self._collect()
            lost = [item_id_of(entry) for entry in self._folder.list("dead", os.path.basename(grave), "running")]
            self._lose(lost, f"worker {name} gave no sign of life for {self._lease_seconds:g} s")

    def _collect(self) -> None:
        for item_id in self._folder.list("done"):
            outcome = self._folder.load_outcome(item_id)
            os.unlink(self._folder.path("done", item_id))
            if item_id in self._cancelled and outcome.kind is not OutcomeKind.DONE:
                outcome = Outcome(item_id, OutcomeKind.CANCELLED, host=outcome.host)
            self._tell(outcome)

    def _lose(self, item_ids: Sequence[str], detail: str) -> None:
        for item_id in item_ids:
            kind = OutcomeKind.CANCELLED if item_id in self._cancelled else OutcomeKind.LOST
            self._tell(Outcome(item_id, kind, detail=detail))

    def _tell(self, outcome: Outcome) -> None:
        """Report it if nobody did before."""
        with self._changed:
            known = self._entries.pop(outcome.item_id, None)
            if outcome.item_id in self._cancelled:
                self._cancelled.discard(outcome.item_id)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._folder.path("cancel", outcome.item_id))
        if known is not None:
            self._report(outcome)

    def _start(self) -> list[str]:
        """The platform's names of the workers; several on this host get a share of it each."""
        options = {"queue": self._folder.root, "linger": 0, "lease": self._lease_seconds}
        if type(self._platform) is Platform:
            here, count = host_resources(), self._start_workers
            options |= {
                "cpus": max(1, here.cpus // count),
                "gpus": here.gpus / count,
                "memory": here.memory_bytes // count,
            }
        path = os.pathsep.join(entry for entry in sys.path if entry)
        return self._platform.start_job(
            self._start_workers,
            ENTRYPOINT,
            [f"--{name}={value}" for name, value in options.items()],
            {**self._environment, "PYTHONPATH": path},
            self._platform_options,
        )


def default_queue(context: Any) -> str:
    """In the job's folder, which others may read: the queue itself is private."""
    return os.path.join(context.queue_root, "items")


def create(context: Any, config: Any) -> FileQueueExecutor:
    """Options: `queue` (a folder that workers started by hand share; default: one in the job's folder), and
    `lease_seconds`, `inotify`. `num_executors` workers are started by the platform, which is this host unless
    another one is named."""
    options = config.options
    if not config.num_executors and "queue" not in options:
        raise PlanError(
            "the file-queue executor has no workers: set num_executors to start some, or name a folder "
            'with executor_options={"queue": DIR} and start `python -m threefs.smallpond.executors.worker '
            "--queue DIR` wherever it is reachable"
        )
    known = {name: options[name] for name in ("lease_seconds", "inotify", "hosts_expected") if name in options}
    return FileQueueExecutor(
        options.get("queue") or default_queue(context),
        start_workers=config.num_executors,
        environment=worker_environment(context, config),
        platform=get_platform(config.platform),
        platform_options=config.platform_options,
        **known,
    )
