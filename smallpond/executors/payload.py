"""What travels between scheduler and workers: calls one way, results or failures the other way.

Functions of `__main__` and of modules that a worker cannot import travel by value (cloudpickle). `run_payload` is the
only entry point of every worker of every executor; whatever happens inside, it returns an outcome and never raises.
"""

from __future__ import annotations

import pickle
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle

from threefs.smallpond.errors import UserCodeError
from threefs.smallpond.executors.interface import Outcome, OutcomeKind


@dataclass(frozen=True)
class Failure:
    """An exception as it travels: itself when it can be pickled, its words always. Pickling forgets an exception's
    cause: it travels beside it."""

    exception: BaseException | None
    type_name: str
    message: str
    trace: str
    cause: BaseException | None = None
    cause_name: str = ""

    def restored(self) -> BaseException | None:
        """The exception with its cause."""
        if self.exception is not None and self.cause is not None:
            self.exception.__cause__ = self.cause
        return self.exception


def dumps(value: object, what: str = "the result") -> bytes:
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)  # three times as fast, where it can
    except Exception:
        return dumps_by_value(value, what)


def dumps_by_value(value: object, what: str) -> bytes:
    """Functions and classes of `__main__` travel with their code: a worker has another `__main__`."""
    try:
        return bytes(cloudpickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception as exc:
        raise UserCodeError(
            f"{what} cannot be sent to a worker: {type(exc).__name__}: {exc}; create open files, locks, connections "
            "and sessions inside the function instead of capturing them"
        ) from exc


def loads(data: bytes) -> Any:
    return cloudpickle.loads(data)


def make_payload(function: Callable[..., object], *arguments: object, what: str = "the function") -> bytes:
    """`function` is importable on the worker (or travels by value); `run_payload` calls it with the arguments."""
    return dumps((function, arguments), what)


def run_payload(item_id: str, payload: bytes) -> Outcome:
    """Run a payload here. DONE with the pickled result, FAILED or OUT_OF_MEMORY with a pickled Failure."""
    started, begin, cpu_begin = time.time(), time.perf_counter(), time.thread_time()
    try:
        function, arguments = loads(payload)
        kind, value, detail = OutcomeKind.DONE, dumps(function(*arguments)), ""
    except BaseException as exc:
        kind = OutcomeKind.OUT_OF_MEMORY if is_out_of_memory(exc) else OutcomeKind.FAILED
        value, detail = dump_failure(exc), f"{type(exc).__name__}: {exc}"
    return Outcome(
        item_id,
        kind,
        value,
        detail,
        started=started,
        seconds=time.perf_counter() - begin,
        cpu_seconds=time.thread_time() - cpu_begin,
        peak_bytes=peak_bytes(),
    )


def is_out_of_memory(exc: BaseException) -> bool:
    """Python's MemoryError, Arrow's (a subclass) and DuckDB's OutOfMemoryException, anywhere in the chain of causes."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ in ("OutOfMemoryException", "OutOfMemoryError"):
            return True
        seen = seen.__cause__
    return False


def dump_failure(exc: BaseException) -> bytes:
    """Pickle an exception with its words; one that does not survive pickling travels as words alone."""
    trace = "".join(traceback.format_exception(exc))
    name, cause = type(exc).__name__, exc.__cause__
    cause_name = type(cause).__name__ if cause is not None else ""
    for kept, kept_cause in ((exc, cause), (exc, None), (None, None)):
        failure = Failure(kept, name, str(exc), trace, kept_cause, cause_name)
        try:
            data = bytes(cloudpickle.dumps(failure))
            loads(data)  # an __init__ with other arguments than `args` breaks only here
        except Exception:
            continue
        return data
    raise AssertionError("words can be pickled")


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
