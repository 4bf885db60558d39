"""What runs on a worker: a bundle of tasks of one stage, one after the other.

The step itself (its node, with the user's functions) travels as a pickled program that a worker unpickles once; tasks
are only their inputs and places. Every task has an outcome of its own: one that fails does not undo its neighbours.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import resource
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from threefs.smallpond.common import GB
from threefs.smallpond.errors import TaskFailed
from threefs.smallpond.execution.operators import run_operator
from threefs.smallpond.execution.results import ResultStore, StoredResult, stored
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.executors import payload
from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node import Node
from threefs.smallpond.logical.partition import Partition

PROGRAMS_MAX = 32  # unpickled programs that a worker keeps


@dataclass(frozen=True)
class TaskSpec:
    index: int
    attempt: int
    partition: Partition
    inputs: list[DataSet | None]


@dataclass(frozen=True)
class Bundle:
    """Tasks of one stage. `program` is the pickled node, or the path of a file with it when it is large."""

    context: TaskContext  # of the stage; task fields are filled in here
    program: bytes | str
    program_id: str
    role: str
    keep: bool  # store the results under the stage's key
    tasks: Sequence[TaskSpec]


@dataclass(frozen=True)
class TaskReport:
    """How one task of a bundle ended: with a result or with a failure."""

    index: int
    result: StoredResult | None
    failure: bytes = b""  # a pickled payload.Failure
    out_of_memory: bool = False
    started: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class InjectedFault(TaskFailed):
    """A failure made on purpose (`fault_inject_prob`)."""


_programs: OrderedDict[str, Node] = OrderedDict()


def run_bundle(bundle: Bundle) -> list[TaskReport]:
    """Run the tasks; results are committed to the store before they are reported."""
    node = _program(bundle)
    reports = [_run_task(node, bundle, task) for task in bundle.tasks]
    done = {report.index: report.result for report in reports if report.result is not None}
    if bundle.keep and done:
        ResultStore(bundle.context.results_root).commit(bundle.context.stage_key, done)
    return reports


def _program(bundle: Bundle) -> Node:
    node = _programs.get(bundle.program_id)
    if node is None:
        data = bundle.program
        if isinstance(data, str):
            with open(data, "rb") as file:
                data = file.read()
        node = _programs[bundle.program_id] = payload.loads(data)
        if len(_programs) > PROGRAMS_MAX:
            _programs.popitem(last=False)
    return node


def _run_task(node: Node, bundle: Bundle, task: TaskSpec) -> TaskReport:
    prefix = f"{task.index:06d}.{bundle.context.run_id}.{task.attempt}"
    context = replace(
        bundle.context, task_index=task.index, attempt=task.attempt, partition=task.partition, file_prefix=prefix
    )
    started, begin, cpu_begin = time.time(), time.perf_counter(), time.process_time()
    result, failure, out_of_memory = None, b"", False
    try:
        with _surroundings(context):
            _maybe_inject_fault(context)
            dataset, rows = run_operator(node, bundle.role, context, task.inputs)
            result = stored(dataset, rows, context.output_dir)
    except BaseException as exc:
        failure, out_of_memory = payload.dump_failure(exc), payload.is_out_of_memory(exc)
        _remove_leftovers(context)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu_begin
    return TaskReport(task.index, result, failure, out_of_memory, started, seconds, cpu)


@contextlib.contextmanager
def _surroundings(context: TaskContext) -> Iterator[None]:
    """Seeds, limits and a temporary folder that is gone afterwards."""
    random.seed(context.seed)
    np.random.seed(context.seed % (1 << 32))
    try:
        with _memory_rlimit(context):
            yield
    finally:
        shutil.rmtree(context.temp_dir, ignore_errors=True)


@contextlib.contextmanager
def _memory_rlimit(context: TaskContext) -> Iterator[None]:
    """With `enforce_memory_limit`: an allocation above 1.2 times the task's limit (and what the process had) fails."""
    if not context.enforce_memory_limit or not context.memory_limit:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(context.memory_limit * 1.2) + GB  # the interpreter and the engines' own
    resource.setrlimit(resource.RLIMIT_DATA, (min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _maybe_inject_fault(context: TaskContext) -> None:
    chance = context.fault_inject_prob
    if chance and random.Random(context.seed * 31 + context.attempt).random() < chance:
        raise InjectedFault(f"fault injected into attempt {context.attempt} of {context.step}")


def _remove_leftovers(context: TaskContext) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(context.output_dir):
            if name.startswith(context.file_prefix) and not name.endswith(".checkpoint"):
                os.unlink(os.path.join(context.output_dir, name))


def dump_bundle(bundle: Bundle) -> bytes:
    """The payload of a work item."""
    return payload.dumps((run_bundle, (bundle,)), bundle.context.step)


def load_reports(value: bytes) -> list[TaskReport]:
    found: list[TaskReport] = pickle.loads(value)
    return found
