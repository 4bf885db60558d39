"""The folder through which drivers and workers of a file queue speak: its layout, its names, and whom it trusts.

    driver                   id of the driver; its time stamp is the driver's sign of life
    todo/ENTRY               work items; a worker takes one by renaming it into its own folder
    cancel/ITEM              items that their workers shall stop
    done/ITEM                outcomes
    workers/NAME/hello       what the worker offers (JSON); its time stamp is the worker's sign of life
    workers/NAME/running/…   the entries that it took
    dead/                    folders of workers whose lease ran out
    fresh/                   files while they are written

An ENTRY is `sequence,cpus,gpus,bytes of memory,item id`, so that workers choose without opening. All that is needed of
the file system is an atomic rename. One rule: what is read here is unpickled, so only a folder and files that belong
to this very user, and that nobody else may enter, are touched at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import stat
import time
import uuid
from dataclasses import asdict
from typing import Any

from threefs.common.errors import Unauthenticated
from threefs.smallpond.executors.interface import Host, Outcome, Resources, WorkItem

LEASE_SECONDS = 10.0  # without a sign of life for that long, a worker or driver counts as dead
BEAT_SHARE = 0.2  # of the lease between two signs of life
POLL_SECONDS = 0.5  # between looks where the file system tells of no changes
FOLDERS = ("todo", "cancel", "done", "workers", "dead", "fresh")


class QueueFolder:
    """Paths and file operations; keeps no state of its own."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.driver = self.path("driver")

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def create(self) -> None:
        """Make what is missing. Unauthenticated when the folder is not private."""
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self.check_private()
        for name in FOLDERS:
            os.makedirs(self.path(name), mode=0o700, exist_ok=True)

    def check_private(self) -> None:
        found = os.lstat(self.root)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise Unauthenticated(
                f"the queue {self.root} belongs to user {found.st_uid} with mode {stat.filemode(found.st_mode)}, and "
                f"what is in it would be run as user {os.geteuid()}: use a folder of your own with mode 0700"
            )

    # ---- files ----

    def write(self, path: str, data: bytes) -> None:
        """The file appears whole or not at all."""
        fresh = self.path("fresh", uuid.uuid4().hex)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        os.rename(fresh, path)

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            owner = os.fstat(file.fileno()).st_uid
            if owner != os.geteuid():
                raise Unauthenticated(f"{path} belongs to user {owner}, not to {os.geteuid()}: it is not read")
            return file.read()

    def load_item(self, path: str) -> WorkItem:
        item: WorkItem = pickle.loads(self.read(path))
        return item

    def load_outcome(self, item_id: str) -> Outcome:
        outcome: Outcome = pickle.loads(self.read(self.path("done", item_id)))
        return outcome

    # ---- signs of life ----

    def driver_id(self) -> str | None:
        try:
            return self.read(self.driver).decode()
        except FileNotFoundError:
            return None

    def hello(self, worker: str) -> str:
        return self.path("workers", worker, "hello")

    def join(self, host: Host) -> None:
        """A worker appears with all that it needs, at once."""
        fresh = self.path("fresh", uuid.uuid4().hex)
        os.makedirs(os.path.join(fresh, "running"), mode=0o700)
        with open(os.path.join(fresh, "hello"), "w") as file:
            json.dump(asdict(host.total), file)
        os.rename(fresh, self.path("workers", host.name))

    def offer(self, worker: str) -> Resources:
        return Resources(**json.loads(self.read(self.hello(worker))))

    # ---- entries ----

    def list(self, *parts: str) -> list[str]:
        """Names in a folder, sorted; empty when it is gone."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self.path(*parts)))
        return []


def entry_of(sequence: int, item: WorkItem) -> str:
    request = item.request
    return f"{sequence:010d},{request.cpus},{request.gpus:g},{request.memory_bytes},{item.id}"


def request_of(entry: str) -> Resources:
    _, cpus, gpus, memory, _ = entry.split(",", 4)
    return Resources(int(cpus), float(gpus), int(memory))


def item_id_of(entry: str) -> str:
    return entry.split(",", 4)[4]


class Lease:
    """Whether a file still gives signs of life, by this host's clock alone: what counts is that its stamp changes."""

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._seen: Any = None
        self._changed = time.monotonic()

    def is_valid(self) -> bool:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        stamp = (found.st_ino, found.st_mtime_ns)
        if stamp != self._seen:
            self._seen, self._changed = stamp, time.monotonic()
        return time.monotonic() - self._changed < self._seconds


class Pulse:
    """Gives signs of life, not more often than is needed."""

    def __init__(self, path: str, lease_seconds: float) -> None:
        self._path = path
        self._every = lease_seconds * BEAT_SHARE
        self._next = 0.0

    def beat(self) -> None:
        """FileNotFoundError when the file is gone: somebody gave us up."""
        if time.monotonic() >= self._next:
            os.utime(self._path)
            self._next = time.monotonic() + self._every
