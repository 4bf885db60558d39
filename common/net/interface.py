"""Carriers: how a request reaches a service, whatever the wire.

A request and a reply are each a small `body` (a protobuf message, or an array of fixed-size descriptors) and
optional bulk `data`. The same service class is served by four carriers: frames over TCP (`frames`), gRPC
(`grpc_carrier`, bodies only), in-process loopback and the simulated network. Errors travel by code
(`common.errors.to_wire`) and are raised again on the caller's side as the same class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Buffer = bytes | bytearray | memoryview

# Given the reply's body, the writable views that its data goes into, in order; their lengths must sum to the
# data's length. Called before the data is received, so that bytes land in their final place.
Scatter = Callable[[bytes, int], Sequence[memoryview]]


@dataclass(slots=True)
class Request:
    """What a handler gets."""

    method: int
    body: bytes
    data: memoryview = field(default_factory=lambda: memoryview(b""))  # aligned, pooled; dropped = recycled
    peer: str = ""  # for logs
    timeout_s: float = 0.0  # what the caller still waits


@dataclass(slots=True)
class Reply:
    """What a handler returns, and what a caller gets (there `data` is one view, empty if scattered)."""

    body: bytes = b""
    data: Sequence[Buffer] = ()


Handler = Callable[[Request], Awaitable[Reply]]


class PromptHandler(Protocol):
    """A handler that can often answer without waiting; a server that knows of it then needs no task."""

    def at_once(self, request: Request) -> Reply | None:
        """None: it has to be called. Raises nothing."""

    def __call__(self, request: Request) -> Awaitable[Reply]: ...


class Transport(ABC):
    """The calling side of one carrier: connects on demand, multiplexes, reconnects."""

    @abstractmethod
    async def call(
        self,
        address: str,
        method: int,
        body: bytes,
        data: Sequence[Buffer] = (),
        *,
        timeout_s: float,
        scatter: Scatter | None = None,
    ) -> Reply:
        """One attempt of one request.

        Raises what the handler raised; `Timeout` or `Unreachable` if no answer came (the request may have been
        carried out), `Corrupt` / `ChecksumMismatch` if a frame was damaged. If cancelled, the request may still be
        carried out; scattered buffers are not written after the call has ended.
        """

    @abstractmethod
    async def close(self) -> None: ...


class Server(ABC):
    """The serving side of one carrier."""

    address: str  # "host:port", valid after start

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def close(self) -> None:
        """Stops accepting, lets running handlers finish for a moment, then cancels them."""


class Carrier(ABC):
    """Makes both ends for one process: what a daemon or a client is handed instead of the network."""

    @abstractmethod
    def transport(self) -> Transport: ...

    @abstractmethod
    def server(self, listen: str, handlers: Mapping[int, Handler]) -> Server:
        """A server for `listen` ("host:port", port 0: any); `bind` and data-plane handlers merged by the caller."""
