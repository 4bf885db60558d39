"""From a service object to handlers, and from a typed method to a call: the two ends that every carrier shares.

A service is a plain object with one async method per RPC, named in snake_case, from (request message, Request)
to reply message. It knows nothing of the carrier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from threefs.common.errors import Corrupt, RoutingError, ThreefsError, Timeout, TransientError
from threefs.common.net.interface import Handler, Reply, Request, Transport
from threefs.common.net.limits import TimeLimits
from threefs.common.runtime.interface import Runtime
from threefs.proto.rpc import Method, snake_case

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)


def methods_of(table: type) -> list[Method[Any, Any]]:
    """The methods of a generated table (`threefs.proto.*_rpc`)."""
    return [value for value in vars(table).values() if isinstance(value, Method)]


def bind(service: object, table: type) -> dict[int, Handler]:
    """Handlers by method number for every method of `table`; AttributeError names one that is missing."""
    limits = TimeLimits()
    return {
        method.number: _handler(method, getattr(service, snake_case(method.name)), limits)
        for method in methods_of(table)
    }


def _handler(
    method: Method[RequestT, ReplyT], serve: Callable[[RequestT, Request], Awaitable[ReplyT]], limits: TimeLimits
) -> Handler:
    async def handle(request: Request) -> Reply:
        message = method.request()
        try:
            message.ParseFromString(request.body)
        except DecodeError as exc:
            raise Corrupt(f"request of {method.service}.{method.name} does not parse: {exc}") from exc
        reply = await _in_time(serve(message, request), request.timeout_s, method, limits)
        return Reply(reply.SerializeToString())

    return handle


async def _in_time(work: Awaitable[ReplyT], timeout_s: float, method: Method[Any, Any], limits: TimeLimits) -> ReplyT:
    """Ends the work when nobody waits for it any more: what went on could undo what a retry has done since."""
    if not timeout_s:
        return await work
    task = asyncio.current_task()
    assert task is not None, "requests are served by tasks"
    others = task.cancelling()
    limit = limits.start(timeout_s, task.cancel)
    try:
        return await work
    except asyncio.CancelledError as exc:
        if limit.passed and task.uncancel() <= others:
            text = f"{method.service}.{method.name} was not done within its caller's {timeout_s:g} s"
            raise Timeout(text) from exc
        raise
    finally:
        limits.lift(limit)


async def invoke(
    transport: Transport,
    address: str,
    method: Method[RequestT, ReplyT],
    message: RequestT,
    *,
    timeout_s: float,
) -> ReplyT:
    """One attempt of one RPC."""
    answer = await transport.call(address, method.number, message.SerializeToString(), timeout_s=timeout_s)
    reply = method.reply()
    try:
        reply.ParseFromString(answer.body)
    except DecodeError as exc:
        raise Corrupt(f"reply of {method.service}.{method.name} from {address} does not parse: {exc}") from exc
    return reply


class Retry:
    """Deadline and back-off of one request: `while True: try … except … as e: await retry.pause(e)`.

    Back-off doubles from `first_s` to `most_s` with jitter. `pause` raises the error again when the deadline has
    passed, or when retrying cannot help (anything but TransientError and RoutingError).
    """

    def __init__(self, runtime: Runtime, timeout_s: float, *, first_s: float = 0.01, most_s: float = 1.0) -> None:
        self._runtime = runtime
        self._deadline = runtime.now() + timeout_s
        self._next_s = first_s
        self._most_s = most_s
        self.attempts = 0

    @property
    def left_s(self) -> float:
        return self._deadline - self._runtime.now()

    async def pause(self, error: ThreefsError) -> None:
        self.attempts += 1
        if not isinstance(error, TransientError | RoutingError) or self.left_s <= 0:
            raise error
        await self._runtime.sleep(min(self._runtime.jitter(self._next_s), max(self.left_s, 0.001)))
        self._next_s = min(self._next_s * 2, self._most_s)
