"""Virtual time: a whole cluster in one process, replayed exactly from a seed.

`SimulatedLoop` is an asyncio loop with a clock that jumps to the next timer whenever nothing is ready, so minutes
of timeouts take milliseconds. `Simulation` owns the loop, the seed, the trace and the simulated processes;
`SimulatedRuntime` is what one of those processes is handed. Nothing here reads the machine's clock or randomness.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, copy_context
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

from threefs.common.runtime.interface import Runtime

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH_US = 1_700_000_000_000_000  # wall clock at virtual second 0


class SimulationStuck(Exception):
    """Nothing is ready and no timer is set: somebody waits for what nobody will do."""


class _Handle(asyncio.TimerHandle):
    """A callback that is due. asyncio's own does more for each than most callbacks do."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., object], args: tuple[object, ...], context: Context | None) -> None:
        self._callback = callback
        self._args = args
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None

    def cancel(self) -> None:
        self._cancelled = True


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time. Callbacks run in the order in which they became due; when none is, the clock goes
    on to the next timer. It has no sockets, no threads, and no debug mode: rounds are all that a simulation costs."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._due: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._timer_count = 0

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, context)
        self._due.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = _Handle(callback, args, context)
        self._timer_count += 1
        heappush(self._timers, (when, self._timer_count, handle))
        return handle

    def _run_once(self) -> None:
        """One round of `run_forever`: everything that is due at its beginning."""
        due, timers = self._due, self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if not due:
            if not timers:
                raise SimulationStuck(f"no task can run at virtual second {self._now:.6f}")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            due.append(heappop(timers)[2])
        for _ in range(len(due)):
            handle = due.popleft()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except Exception as exc:
                self.call_exception_handler({"message": f"{handle._callback} failed", "exception": exc})

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        raise AssertionError("simulated code must not use threads")


class SimulatedRuntime(Runtime):
    """One simulated process: it can crash, which ends all its tasks at once."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.simulation = simulation
        self.name = name
        self.random = Random(f"{simulation.seed}/{name}")
        self.alive = True
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def now(self) -> float:
        return self.simulation.loop.time()

    def wall_us(self) -> int:
        return EPOCH_US + round(self.now() * 1e6)

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = self.simulation.loop.create_task(work, name=f"{self.name}/{name}")
        self._tasks[task] = None
        task.add_done_callback(self._on_done)
        if not self.alive:  # a crashed process starts nothing
            task.cancel()
        return task

    async def sleep(self, seconds: float) -> None:
        self.check_alive()
        await asyncio.sleep(seconds)

    def check_alive(self) -> None:
        """Ends the task that asks if its process has crashed: a `finally` block that waits for the network, and
        turns its silence into another error, would else outlive its process."""
        if not self.alive:
            raise asyncio.CancelledError

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.simulation.fail(f"task {task.get_name()} failed: {type(error).__name__}: {error}", error)

    def crash(self) -> None:
        """Power off: every task is cancelled; what its `finally` blocks still try reaches no network and no disk."""
        self.alive = False
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Simulation:
    """One run: a seed, a clock, its processes, and a trace whose digest is equal for equal runs."""

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self.loop = SimulatedLoop()
        self.random = Random(f"{seed}/simulation")
        self.failures: list[tuple[str, BaseException | None]] = []
        self.events = 0
        self.keep_trace = False
        self.trace: list[str] = []
        self._digest = hashlib.sha256()

    def runtime(self, name: str) -> SimulatedRuntime:
        """A new process; a restart of a crashed one gets a name of its own (`storage-1#2`)."""
        return SimulatedRuntime(self, name)

    def record(self, event: str) -> None:
        """Adds one event to the trace: whatever is recorded must be equal in every run of the seed."""
        line = f"{self.loop.time():.6f} {event}"
        self.events += 1
        self._digest.update(line.encode() + b"\n")
        if self.keep_trace:
            self.trace.append(line)

    def digest(self) -> str:
        return self._digest.hexdigest()

    def fail(self, message: str, error: BaseException | None = None) -> None:
        """A violation: recorded, and raised by `run` at its end."""
        self.record(f"FAIL {message}")
        self.failures.append((message, error))

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs to the end of `main`; raises the first failure of the run."""
        try:
            result = self.loop.run_until_complete(main)
        finally:
            self._end_tasks()
        if self.failures:
            message, error = self.failures[0]
            raise AssertionError(f"seed {self.seed}: {message}") from error
        return result

    def _end_tasks(self) -> None:
        pending = sorted(asyncio.all_tasks(self.loop), key=lambda task: task.get_name())
        for task in pending:
            task.cancel()
        if pending:
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.close()
