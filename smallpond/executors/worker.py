"""A worker of a file queue: takes items that fit this host, runs them in processes of its own, writes their outcomes.

    python -m threefs.smallpond.executors.worker --queue DIR [--cpus N] [--gpus G] [--memory BYTES] [--linger SECONDS]

Start as many as you like, wherever DIR is reachable, before the driver or in the middle of its run; SIGTERM makes one
leave, and what it had taken goes back to the queue. Several drivers may use a queue, one after the other. One rule: an
item is in `todo` or in one worker's `running` until its outcome is in `done`, so that whoever dies, somebody finds it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import platform
import signal
import sys
import threading
import time
from dataclasses import replace

from threefs.smallpond.executors.interface import Host, Outcome, Resources
from threefs.smallpond.executors.local.executor import LocalExecutor, host_resources
from threefs.smallpond.executors.queue_folder import (
    BEAT_SHARE,
    LEASE_SECONDS,
    POLL_SECONDS,
    Lease,
    Pulse,
    QueueFolder,
    item_id_of,
    request_of,
)
from threefs.smallpond.executors.selection import local_ranks
from threefs.smallpond.executors.wakeup import Wakeup

LINGER_SECONDS = 300.0


class QueueWorker:
    def __init__(
        self,
        root: str,
        resources: Resources,
        *,
        linger_seconds: float = LINGER_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        inotify: bool = True,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._folder = QueueFolder(root)
        self._folder.create()
        self.name = f"{platform.node() or 'localhost'}.{os.getpid()}.{time.time_ns() % 10**9}"
        self._resources = self._free = resources
        self._linger = linger_seconds
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._running: dict[str, str] = {}  # item -> entry; guarded by the lock, like _free
        self._broken: Exception | None = None
        self._stopping = False
        self._wakeup = Wakeup([self._folder.path(part) for part in ("", "todo", "cancel")], native=inotify)
        self._executor = LocalExecutor(resources, environment={"OPENBLAS_NUM_THREADS": "1", **(environment or {})})

    def stop(self) -> None:
        """Leave soon. From any thread or signal handler."""
        self._stopping = True
        self._wakeup.wake()

    def run(self) -> None:
        """Serve until told to stop, until no driver has been there for the time to linger, or until given up."""
        self._executor.start(self._report)
        self._executor.warm_up()
        self._folder.join(Host(self.name, self._resources))
        pulse = Pulse(self._folder.hello(self.name), self._lease_seconds)
        try:
            self._serve(pulse)
        finally:
            self._leave()
        if self._broken is not None:
            raise self._broken

    def _serve(self, pulse: Pulse) -> None:
        driver: str | None = None
        lease = Lease(self._folder.driver, self._lease_seconds)
        alone_since = time.monotonic()
        while not self._stopping and self._broken is None:
            pulse.beat()
            found = self._folder.driver_id() if lease.is_valid() else None
            if found != driver:
                self._drop_all()  # they belong to a driver that is gone
                driver, alone_since = found, time.monotonic()
            if driver is not None:
                self._obey_cancellations()
                self._take_all()
            elif time.monotonic() - alone_since >= self._linger:
                return
            self._wakeup.wait(min(POLL_SECONDS, self._lease_seconds * BEAT_SHARE))

    # ---- items ----

    def _take_all(self) -> None:
        for entry in self._folder.list("todo"):
            request = request_of(entry)
            with self._lock:
                if not self._free.covers(request):
                    continue
                self._free = self._free.minus(request)
            if not self._take(entry):
                with self._lock:
                    self._free = self._free.plus(request)

    def _take(self, entry: str) -> bool:
        """False when another worker was faster, or the driver withdrew it."""
        mine = self._folder.path("workers", self.name, "running", entry)
        try:
            os.rename(self._folder.path("todo", entry), mine)
        except FileNotFoundError:
            return False
        item = self._folder.load_item(mine)
        with self._lock:
            self._running[item.id] = entry
        self._executor.submit(replace(item, isolated=True))
        return True

    def _obey_cancellations(self) -> None:
        for item_id in self._folder.list("cancel"):
            if item_id in self._running:
                self._executor.cancel(item_id)

    def _report(self, outcome: Outcome) -> None:
        """Called by the executor's threads: the outcome first, then the entry goes."""
        with self._lock:
            entry = self._running.pop(outcome.item_id, None)
            if entry is None:
                return  # of a driver that is gone, or given back
        try:
            done = self._folder.path("done", outcome.item_id)
            self._folder.write(done, pickle.dumps(replace(outcome, host=self.name)))
            os.unlink(self._folder.path("workers", self.name, "running", entry))
        except OSError as exc:  # a full disk, or we were given up: leaving makes somebody else do it
            self._broken = exc
        with self._lock:
            self._free = self._free.plus(request_of(entry))
        self._wakeup.wake()

    def _drop_all(self) -> None:
        with self._lock:
            dropped, self._running = self._running, {}
        for item_id, entry in dropped.items():
            self._executor.cancel(item_id)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder.path("workers", self.name, "running", entry))
            with self._lock:
                self._free = self._free.plus(request_of(entry))

    def _leave(self) -> None:
        """Give back what was taken and not finished, then go without a trace."""
        with self._lock:
            self._running = {}
        self._executor.close()
        running = ("workers", self.name, "running")
        finished = set(self._folder.list("done"))
        for entry in self._folder.list(*running):
            if item_id_of(entry) not in finished:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self._folder.path(*running, entry), self._folder.path("todo", entry))
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._folder.path("workers", self.name), self._folder.path("dead", self.name))
        self._wakeup.close()


def share_of_host() -> Resources:
    """What this worker lends: all of its host, or its part where mpirun started several on one."""
    here = host_resources()
    workers = local_ranks(os.environ)
    return Resources(max(1, here.cpus // workers), here.gpus / workers, here.memory_bytes // workers)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m threefs.smallpond.executors.worker", description=__doc__)
    here = share_of_host()
    parser.add_argument("--queue", required=True, help="folder shared with the driver, yours alone (mode 0700)")
    parser.add_argument("--cpus", type=int, default=here.cpus)
    parser.add_argument("--gpus", type=float, default=here.gpus)
    parser.add_argument("--memory", type=int, default=here.memory_bytes, help="bytes")
    parser.add_argument("--linger", type=float, default=LINGER_SECONDS, help="seconds to wait for a (next) driver")
    parser.add_argument("--lease", type=float, default=LEASE_SECONDS, help="seconds; the same as the driver's")
    given = parser.parse_args(arguments)
    resources = Resources(given.cpus, given.gpus, given.memory)
    worker = QueueWorker(given.queue, resources, linger_seconds=given.linger, lease_seconds=given.lease)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    try:
        worker.run()
    except FileNotFoundError as exc:
        sys.exit(f"worker {worker.name} leaves: the driver gave it up, or the queue was removed ({exc})")


if __name__ == "__main__":
    main()
