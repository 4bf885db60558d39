"""Time limits that share one timer: each passes at its time, none after it was lifted, the earliest first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from threefs.common.net.limits import TimeLimits
from threefs.common.runtime.simulated import Simulation

pytestmark = pytest.mark.unit


def run(body: Callable[[TimeLimits, list[str]], Awaitable[None]]) -> list[str]:
    passed: list[str] = []

    async def main() -> None:
        await body(TimeLimits(), passed)

    Simulation(1).run(main())
    return passed


def test_limits_pass_in_the_order_of_their_times() -> None:
    async def body(limits: TimeLimits, passed: list[str]) -> None:
        for name, seconds in (("late", 5.0), ("soon", 1.0), ("between", 2.0), ("with soon", 1.0)):
            limits.start(seconds, lambda name=name: passed.append(name))  # type: ignore[misc]
        await asyncio.sleep(1.5)
        assert passed == ["soon", "with soon"]
        await asyncio.sleep(4)

    assert run(body) == ["soon", "with soon", "between", "late"]


def test_a_lifted_limit_does_not_pass() -> None:
    async def body(limits: TimeLimits, passed: list[str]) -> None:
        lifted = limits.start(1.0, lambda: passed.append("lifted"))
        kept = limits.start(2.0, lambda: passed.append("kept"))
        limits.lift(lifted)
        limits.lift(lifted)
        await asyncio.sleep(3)
        assert kept.passed
        assert not lifted.passed
        limits.start(1.0, lambda: passed.append("after a rest"))
        await asyncio.sleep(3)

    assert run(body) == ["kept", "after a rest"]


def test_a_limit_may_lift_another_that_is_due_with_it() -> None:
    async def body(limits: TimeLimits, passed: list[str]) -> None:
        second = None

        def first() -> None:
            passed.append("first")
            assert second is not None
            limits.lift(second)

        limits.start(1.0, first)
        second = limits.start(1.0, lambda: passed.append("second"))
        await asyncio.sleep(2)

    assert run(body) == ["first"]
