"""MPI as a platform: `mpirun -n N python script.py` makes rank 0 the driver and the other ranks its workers.

MPI starts the processes and tells the ranks where they meet; the work then goes through a file queue in the job's
folder, with the same worker loop as everywhere. One rule: only rank 0 returns from `create`, so that the script behind
`smallpond.init()` runs once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any

from threefs.smallpond.errors import PlanError
from threefs.smallpond.executors.filequeue import FileQueueExecutor, default_queue
from threefs.smallpond.executors.interface import Report, Resources
from threefs.smallpond.executors.local.executor import host_resources
from threefs.smallpond.executors.queue_folder import LEASE_SECONDS
from threefs.smallpond.executors.surroundings import worker_environment
from threefs.smallpond.executors.worker import QueueWorker

MEETING_POLL_SECONDS = 0.01


class MpiExecutor(FileQueueExecutor):
    """Rank 0's end: a file queue whose workers are the other ranks."""

    name = "mpi"

    def __init__(self, world: Any, root: str, lease_seconds: float) -> None:
        super().__init__(root, hosts_expected=world.Get_size() - 1, lease_seconds=lease_seconds)
        self._world = world
        self._root = root

    def start(self, report: Report) -> None:
        """The ranks are told only when the queue is there: one that finds no driver leaves at once."""
        super().start(report)
        _invite(self._world, self._root)


def create(context: Any, config: Any) -> MpiExecutor:
    """Called by every rank. The others serve rank 0 here until its session ends, then exit."""
    try:
        from mpi4py import MPI
    except ImportError as exc:
        raise PlanError(f"the MPI platform needs mpi4py ({exc}): install the extra `mpi`") from exc
    world = MPI.COMM_WORLD
    if world.Get_size() < 2:
        raise PlanError("the MPI platform needs two ranks or more: start the script as `mpirun -n 3 python SCRIPT`")
    lease = float(config.options.get("lease_seconds", LEASE_SECONDS))
    local = world.Split_type(MPI.COMM_TYPE_SHARED)
    drivers_here = local.allreduce(int(world.Get_rank() == 0))
    workers_here = max(1, local.Get_size() - drivers_here)
    if world.Get_rank():
        _serve(_invitation(world), workers_here, lease, worker_environment(context, config))
        sys.exit(0)
    return MpiExecutor(world, default_queue(context), lease)


def _invite(world: Any, root: str) -> None:
    for request in [world.isend(root, dest=rank) for rank in range(1, world.Get_size())]:
        _finished(request)


def _invitation(world: Any) -> str:
    return str(_finished(world.irecv(source=0)))


def _finished(request: Any) -> Any:
    """MPI's own waiting keeps a core busy; the driver may take hours until it needs us."""
    while True:
        finished, found = request.test()
        if finished:
            return found
        time.sleep(MEETING_POLL_SECONDS)


def _serve(root: str, workers_here: int, lease_seconds: float, environment: dict[str, str]) -> None:
    worker = QueueWorker(
        root, _share(workers_here), linger_seconds=0.0, lease_seconds=lease_seconds, environment=environment
    )
    with contextlib.suppress(FileNotFoundError):  # the session ended and removed its folder
        worker.run()


def _share(workers_here: int) -> Resources:
    """What this rank lends: its own cores where mpirun bound it to some, else its share of the host's."""
    here = host_resources()
    bound = here.cpus < (os.cpu_count() or 1)
    cpus = here.cpus if bound else max(1, here.cpus // workers_here)
    return Resources(cpus, here.gpus / workers_here, here.memory_bytes // workers_here)
