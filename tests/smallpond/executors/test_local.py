"""The local executor's worker processes: what a cancelled item leaves to the next one."""

from __future__ import annotations

import os
import queue

import pytest

from threefs.smallpond.executors.interface import Outcome, OutcomeKind, Resources, WorkItem
from threefs.smallpond.executors.local.executor import LocalExecutor
from threefs.smallpond.executors.local.process import Worker
from threefs.smallpond.executors.payload import make_payload

DEADLINE = 60.0


def test_a_cancel_that_meets_a_finished_item_costs_the_next_one_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal reaches a process that has answered already: it must not be given the next item."""
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    executor = LocalExecutor(Resources(1, 0.0, 1 << 30))
    executor.start(outcomes.put)
    run = Worker.run

    def run_then_cancel(worker: Worker, item: WorkItem) -> Outcome:
        outcome = run(worker, item)
        if item.id == "first":
            executor.cancel("first")
        return outcome

    monkeypatch.setattr(Worker, "run", run_then_cancel)
    found = []
    for name in ("first", "second"):
        item = WorkItem(name, make_payload(os.getpid), Resources(1, 0.0, 1 << 20), isolated=True)
        executor.submit(item)
        found.append(outcomes.get(timeout=DEADLINE))
    executor.close()
    assert [outcome.kind for outcome in found] == [OutcomeKind.DONE, OutcomeKind.DONE]
    assert found[0].worker != found[1].worker
