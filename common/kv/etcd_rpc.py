"""Requests to an etcd cluster: fail-over between members, and what each etcd error means here.

Used by the etcd engine only. Rule: a read is repeated elsewhere by itself; a write whose request may have left this
process is never repeated, its caller is told that the outcome is unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from threefs.common.errors import NoSpace, StoreError, ThreefsError, Throttled
from threefs.common.kv.errors import KvLimitError, KvMaybeCommitted, KvTooOld, KvUnavailable
from threefs.common.runtime.interface import Runtime

try:
    from aetcd import rpc as rpc
except ImportError as exc:
    raise KvUnavailable('kv.engine = "etcd" needs the package aetcd: pip install "threefs[etcd]"') from exc

RETRY_PAUSE_S: Final = 0.05

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # etcd answers a range at once, whatever its size
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
_NEVER_SENT: Final = ("failed to connect", "connections to all backends failing", "no connection established")


class FutureRevision(Exception):
    """This member has not caught up with the revision that was asked for."""


def explain(error: Any, members: str) -> ThreefsError | FutureRevision:
    """What a gRPC error of etcd means to the caller of a read."""
    code, details = error.code().name, error.details() or ""
    if code == "OUT_OF_RANGE":
        if "future" in details:
            return FutureRevision(details)
        return KvTooOld(f"etcd: {details}")
    if "space exceeded" in details:
        return NoSpace(
            f"etcd: {details}; compact and defragment it, or raise --quota-backend-bytes, then disarm its alarm"
        )
    if "too many requests" in details:
        return Throttled(f"etcd: {details}")
    if "too many operations" in details:
        return KvLimitError(
            f"etcd: {details}; set kv.transaction_ops_max to what its --max-txn-ops says, or raise both"
        )
    if code == "RESOURCE_EXHAUSTED" or "too large" in details:
        return KvLimitError(f"etcd: {details}; split the transaction or raise --max-request-bytes")
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"):
        return KvUnavailable(f"no etcd member of {members} answers ({details or code.lower()}); is a majority running?")
    return StoreError(f"etcd: {code.lower()}: {details}")


class EtcdMembers:
    """The members of one cluster; requests go to one of them until it fails."""

    def __init__(self, endpoints: tuple[str, ...], runtime: Runtime, timeout_s: float) -> None:
        self._endpoints = endpoints
        self._timeout_s = timeout_s
        self._runtime = runtime
        self._channels = [rpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS) for endpoint in endpoints]
        self._stubs = [rpc.KVStub(channel) for channel in self._channels]
        self.current = runtime.random.randrange(len(endpoints))

    def __str__(self) -> str:
        return ", ".join(self._endpoints)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def range(self, request: Any) -> Any:
        """A read of one range."""
        return await self._read("Range", request, [request])

    async def read_transaction(self, request: Any) -> Any:
        """A transaction that only reads ranges, all at one named revision."""
        return await self._read("Txn", request, [each.request_range for each in request.success])

    async def write(self, request: Any) -> Any:
        """A transaction that changes something; KvMaybeCommitted if its request may be on its way."""
        for _ in range(len(self._stubs)):
            chosen = self.current
            try:
                return await self._stubs[chosen].Txn(request, timeout=self._timeout_s)
            except rpc.AioRpcError as exc:
                self._leave(chosen)
                details = exc.details() or ""
                if exc.code().name == "UNAVAILABLE" and any(text in details.lower() for text in _NEVER_SENT):
                    continue
                meaning = explain(exc, str(self))
                if isinstance(meaning, KvUnavailable):
                    raise KvMaybeCommitted(f"etcd: the outcome is unknown ({details or exc.code().name})") from exc
                assert isinstance(meaning, ThreefsError)
                raise meaning from exc
        raise KvUnavailable(f"no etcd member of {self} can be connected to; start them")

    async def _read(self, method: str, request: Any, ranges: list[Any]) -> Any:
        """Reads that name a revision are answered by any member that has it, without asking the others."""
        revision = ranges[0].revision
        for serializable in (True, False) if revision else (False,):
            for each in ranges:
                each.serializable = serializable
            try:
                return await self._attempts(lambda stub: getattr(stub, method)(request, timeout=self._timeout_s))
            except FutureRevision:
                continue
        raise KvUnavailable(f"etcd ({self}) went back to before revision {revision}: was it restored from a copy?")

    async def _attempts(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """Asks each member at most twice."""
        attempts = 2 * len(self._stubs)
        for attempt in range(1, attempts + 1):
            chosen = self.current
            try:
                return await call(self._stubs[chosen])
            except rpc.AioRpcError as exc:
                meaning = explain(exc, str(self))
                if not isinstance(meaning, KvUnavailable):
                    raise meaning from exc
                self._leave(chosen)
                if attempt == attempts:
                    raise meaning from exc
            if attempt % len(self._stubs) == 0:
                await self._runtime.sleep(RETRY_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def _leave(self, member: int) -> None:
        """Goes on to the next member, unless another request has done so already."""
        if self.current == member:
            self.current = (member + 1) % len(self._stubs)
