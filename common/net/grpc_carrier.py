"""gRPC: the control services for the outside, with any language's generated stubs. Bodies only, no bulk data.

The same handlers as on frames are served under their gRPC names. Errors become the status of
`common.errors.grpc_status_name`; code and errno travel in the trailing metadata, so that our own clients raise the
class that was raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import grpc
import grpc.aio

from threefs.common.errors import (
    InternalError,
    ThreefsError,
    Timeout,
    Unreachable,
    Unsupported,
    UserError,
    from_wire,
    grpc_status_name,
    to_wire,
)
from threefs.common.net.interface import Buffer, Carrier, Handler, Reply, Request, Scatter, Server, Transport
from threefs.common.net.service import methods_of
from threefs.proto.rpc import Method

_CODE_KEY, _ERRNO_KEY = "threefs-code", "threefs-errno"
_OPTIONS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.so_reuseport", 0)]


class GrpcServer(Server):
    """Serves the methods of the given tables whose handlers exist."""

    def __init__(self, listen: str, handlers: Mapping[int, Handler], tables: Sequence[type]) -> None:
        self.address = listen
        methods = [method for table in tables for method in methods_of(table) if method.number in handlers]
        self._services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
        for method in methods:
            rpc = grpc.unary_unary_rpc_method_handler(_adapt(method, handlers[method.number]))
            self._services.setdefault(method.service, {})[method.name] = rpc
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=_OPTIONS)
        for service, rpcs in self._services.items():
            generic = grpc.method_handlers_generic_handler(f"threefs.{service}", rpcs)
            self._server.add_generic_rpc_handlers((generic,))
        try:
            port = self._server.add_insecure_port(self.address)
        except RuntimeError as exc:
            hint = "stop what listens there, or set another address in the configuration"
            raise UserError(f"cannot listen on {self.address} for gRPC: the port is in use", hint) from exc
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await self._server.start()

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=2.0)
            self._server = None


def _adapt(method: Method[Any, Any], handler: Handler) -> Any:
    async def serve(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        left = context.time_remaining()
        request = Request(method.number, body, peer=context.peer(), timeout_s=left or 0.0)
        try:
            return (await handler(request)).body
        except ThreefsError as exc:
            await _abort(context, exc)
        except Exception as exc:
            await _abort(context, InternalError(f"{type(exc).__name__}: {exc}"))
        raise AssertionError("abort returned")

    return serve


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], error: ThreefsError) -> None:
    code, number, message = to_wire(error)
    trailing = ((_CODE_KEY, str(code)), (_ERRNO_KEY, str(number)))
    await context.abort(grpc.StatusCode[grpc_status_name(error)], message, trailing)


class GrpcTransport(Transport):
    """Channels by address. Knows the paths of the methods of the given tables."""

    def __init__(self, tables: Sequence[type]) -> None:
        self._paths = {method.number: method.grpc_path for table in tables for method in methods_of(table)}
        self._channels: dict[str, grpc.aio.Channel] = {}

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
        if method not in self._paths or any(map(len, data)):
            raise Unsupported(f"method {method:#06x} does not travel on gRPC")
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        try:
            return Reply(await channel.unary_unary(self._paths[method], None, None)(body, timeout=timeout_s))
        except grpc.aio.AioRpcError as exc:
            raise _from_status(exc, address) from exc

    async def close(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close(None)


def _from_status(error: grpc.aio.AioRpcError, address: str) -> ThreefsError:
    trailing: dict[str, Any] = dict(cast(Iterable[tuple[str, Any]], error.trailing_metadata() or ()))
    if _CODE_KEY in trailing:
        number = int(trailing.get(_ERRNO_KEY, 0))
        return from_wire(int(trailing[_CODE_KEY]), number, error.details() or "")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Timeout(f"{address} did not answer in time")
    return Unreachable(f"{address}: {error.details()}")


class GrpcCarrier(Carrier):
    """gRPC for one process, for the services of `tables`."""

    def __init__(self, *tables: type) -> None:
        self._tables = tables

    def transport(self) -> Transport:
        return GrpcTransport(self._tables)

    def server(self, listen: str, handlers: Mapping[int, Handler]) -> Server:
        return GrpcServer(listen, handlers, self._tables)
