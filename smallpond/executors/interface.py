"""The interface between the scheduler and whatever runs its work: processes here, Ray, MPI ranks, file queues.

The scheduler submits `WorkItem`s and is told an `Outcome` for each, from any thread, exactly once. An executor owns
placement: it queues what does not fit yet, and never starts an item on a host whose free resources are smaller than
the item asks for. It retries nothing: a worker that dies is an Outcome (`LOST`), and the scheduler decides.

The payload is opaque: `payload.run_payload(item.payload)` runs it on any worker and never raises.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What a host has, or what an item asks for."""

    cpus: int = 1
    gpus: float = 0.0
    memory_bytes: int = 0

    def covers(self, request: Resources) -> bool:
        return (
            self.cpus >= request.cpus
            and self.gpus >= request.gpus - 1e-9  # fractions of GPUs are sums of floats
            and self.memory_bytes >= request.memory_bytes
        )

    def minus(self, other: Resources) -> Resources:
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus, self.memory_bytes - other.memory_bytes)

    def plus(self, other: Resources) -> Resources:
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus, self.memory_bytes + other.memory_bytes)

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.cpus} CPUs{gpus}, {self.memory_bytes / 2**30:.2f} GiB"


@dataclass(frozen=True)
class Host:
    """One machine (or rank, or node of a cluster) that runs items; `name` is unique in its executor."""

    name: str
    total: Resources


@dataclass(frozen=True)
class WorkItem:
    """One submission: a bundle of tasks of one stage, pickled."""

    id: str  # unique in the run and safe in a file name; a retry is a new item
    payload: bytes
    request: Resources
    label: str = ""  # for people: the step it belongs to
    isolated: bool = True  # runs code of the user: only in a process of its own. False: any thread may run it


class OutcomeKind(enum.Enum):
    DONE = "done"  # value: the pickled result
    FAILED = "failed"  # value: a pickled `payload.Failure`: the work raised
    OUT_OF_MEMORY = "out of memory"  # value: a pickled `payload.Failure`, or empty when the worker was killed for it
    LOST = "lost"  # the worker died or its host vanished; `detail` says what is known
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Outcome:
    item_id: str
    kind: OutcomeKind
    value: bytes = b""
    detail: str = ""
    host: str = ""
    worker: str = ""  # process on the host, for reports
    started: float = 0.0  # wall clock of the worker's host
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0  # largest resident size of the worker so far


Report = Callable[[Outcome], None]


class Executor(ABC):
    """One executor serves one session. All methods may be called from any thread."""

    name: str

    @abstractmethod
    def start(self, report: Report) -> None:
        """Make ready to accept items; must return at once (workers may come up later)."""

    @abstractmethod
    def hosts(self) -> Sequence[Host]:
        """The hosts known now. It may grow and shrink while the executor runs; empty means none has joined yet."""

    @abstractmethod
    def submit(self, item: WorkItem) -> None:
        """Queue an item; its Outcome is reported exactly once."""

    @abstractmethod
    def cancel(self, item_id: str) -> None:
        """Stop an item that is queued or running; its outcome is CANCELLED unless it ended before."""

    @abstractmethod
    def close(self) -> None:
        """Stop all workers; items that still run are killed. Idempotent."""

    def expects_hosts(self) -> bool:
        """True while hosts may still join: a task that fits no host of now waits instead of being rejected."""
        return False
