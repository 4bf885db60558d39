"""The Ray executor: every item is one remote call on a Ray cluster, a running one or one that is started here.

Ray places (cpus, gpus and memory are the call's requirements) and spreads over the nodes; retrying is the scheduler's.
Only descriptors pass through the object store: rows go through files. One rule: whatever becomes of a call, its future
ends once, and `_translate` makes exactly one Outcome of it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from threefs.smallpond.errors import PlanError
from threefs.smallpond.executors.interface import Executor, Host, Outcome, OutcomeKind, Report, Resources, WorkItem
from threefs.smallpond.executors.local.executor import host_resources
from threefs.smallpond.executors.payload import dump_failure, run_payload
from threefs.smallpond.executors.surroundings import worker_environment

HOSTS_SECONDS = 1.0  # how old the list of nodes may be


def run_on_ray(item_id: str, payload: bytes) -> Outcome:
    """What Ray calls in its worker process."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return replace(run_payload(item_id, payload), host=node, worker=f"process {os.getpid()}")


class RayExecutor(Executor):
    """`address` of a running cluster ("auto" finds the one of this host); None starts one with `resources`."""

    name = "ray"

    def __init__(self, address: str | None = None, resources: Resources | None = None, **options: Any) -> None:
        try:
            import ray
        except ImportError as exc:
            raise PlanError(f"the Ray executor needs Ray ({exc}): install the extra `ray`") from exc
        self._ray: Any = ray  # its own annotations are incomplete
        self._address = address
        self._resources = resources
        self._options = options
        self._lock = threading.Lock()
        self._references: dict[str, Any] = {}  # item -> its call, until it has ended
        self._cancelled: set[str] = set()
        self._known: list[Host] = []
        self._looked = 0.0
        self._owned = False
        self._closed = False

    # ---- the interface ----

    def start(self, report: Report) -> None:
        self._report = report
        if not self._ray.is_initialized():
            self._connect()
            self._owned = True
        self._call = self._ray.remote(max_retries=0, scheduling_strategy="SPREAD")(run_on_ray)

    def _connect(self) -> None:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR", **self._options}
        if self._address is None:
            resources = self._resources or host_resources()
            self._ray.init(address="local", num_cpus=resources.cpus, num_gpus=resources.gpus or None, **quiet)
            return
        quiet.pop("include_dashboard")
        try:
            self._ray.init(address=self._address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as exc:
            raise PlanError(
                f"no Ray cluster answers at {self._address}: {exc}; start one with `ray start --head`, or leave "
                "ray_address out to have one started here"
            ) from exc

    def hosts(self) -> Sequence[Host]:
        with self._lock:
            if time.monotonic() - self._looked > HOSTS_SECONDS or not self._known:
                self._known = [_host(node) for node in self._ray.nodes() if node["Alive"]]
                self._looked = time.monotonic()
            return [host for host in self._known if host.total.cpus > 0]

    def submit(self, item: WorkItem) -> None:
        request = item.request
        call = self._call.options(
            name=item.label or item.id,
            num_cpus=request.cpus,
            num_gpus=request.gpus,
            memory=request.memory_bytes or None,
        )
        with self._lock:
            assert not self._closed, "the executor is closed"
            assert item.id not in self._references, f"item {item.id} submitted twice"
            reference = self._references[item.id] = call.remote(item.id, item.payload)
        reference.future().add_done_callback(self._ended(item.id))

    def cancel(self, item_id: str) -> None:
        with self._lock:
            reference = self._references.get(item_id)
            if reference is None:
                return
            self._cancelled.add(item_id)
        self._ray.cancel(reference, force=True)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            running = list(self._references.values())
        for reference in running:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self._ray.cancel(reference, force=True)
        if self._owned:
            self._ray.shutdown()

    # ---- ends ----

    def _ended(self, item_id: str) -> Callable[[Future[Any]], None]:
        def tell(future: Future[Any]) -> None:
            outcome = self._translate(item_id, future.exception(), future)
            with self._lock:
                self._references.pop(item_id, None)
                cancelled = item_id in self._cancelled
                self._cancelled.discard(item_id)
            if cancelled and outcome.kind is not OutcomeKind.DONE:
                outcome = Outcome(item_id, OutcomeKind.CANCELLED)
            self._report(outcome)

        return tell

    def _translate(self, item_id: str, error: BaseException | None, future: Future[Any]) -> Outcome:
        """The call's own outcome, or what its end says about the worker."""
        exceptions = self._ray.exceptions
        if error is None:
            found: Outcome = future.result()
            return found
        detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, exceptions.TaskCancelledError):
            return Outcome(item_id, OutcomeKind.CANCELLED)
        if isinstance(error, exceptions.OutOfMemoryError):
            return Outcome(item_id, OutcomeKind.OUT_OF_MEMORY, detail=detail)
        if isinstance(error, exceptions.RayTaskError):  # `run_payload` never raises: the worker could not even load it
            return Outcome(item_id, OutcomeKind.FAILED, dump_failure(error), detail)
        return Outcome(item_id, OutcomeKind.LOST, detail=f"{type(error).__name__}: {detail}")


def _host(node: dict[str, Any]) -> Host:
    total = node["Resources"]
    return Host(node["NodeID"], Resources(int(total.get("CPU", 0)), total.get("GPU", 0.0), int(total.get("memory", 0))))


def create(context: Any, config: Any) -> RayExecutor:
    """Options: `resources` of a cluster that is started here, and `ray`: further arguments of `ray.init`."""
    if config.bind_numa_node:
        raise PlanError(
            "bind_numa_node is the business of who starts the nodes of a Ray cluster: run `numactl -N I -m I ray start "
            "--address HEAD` once for each NUMA node I"
        )
    options = dict(config.options.get("ray") or {})
    options.setdefault("runtime_env", {"env_vars": worker_environment(context, config)})
    return RayExecutor(config.ray_address, config.options.get("resources"), **options)
