"""One service on every carrier: the same answers, the same errors."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from threefs.common.errors import FileError, StaleRouting, ThreefsError, Timeout, Unreachable
from threefs.common.net.frame_server import FrameCarrier
from threefs.common.net.grpc_carrier import GrpcCarrier
from threefs.common.net.interface import Carrier, Request, Transport
from threefs.common.net.loopback import LoopbackCarrier
from threefs.common.net.service import bind, invoke
from threefs.common.net.simulated import SimulatedNetwork
from threefs.common.runtime.real import RealRuntime
from threefs.common.runtime.simulated import Simulation
from threefs.proto import core_pb2 as pb
from threefs.proto.core_rpc import Core

pytestmark = pytest.mark.unit


class _Service:
    """Answers by what the payload says."""

    async def echo(self, request: pb.EchoRequest, context: Request) -> pb.EchoReply:
        if request.payload == b"stale":
            raise StaleRouting("chain 7 is at version 3, the request says 2")
        if request.payload == b"missing":
            raise FileError(2, "/a")
        if request.payload == b"slow":
            await asyncio.sleep(0.5)
        return pb.EchoReply(payload=request.payload + b"!")

    async def get_info(self, request: pb.GetInfoRequest, context: Request) -> pb.GetInfoReply:
        return pb.GetInfoReply(node_id=7, role="meta")

    async def get_config(self, request: pb.GetConfigRequest, context: Request) -> pb.GetConfigReply:
        return pb.GetConfigReply(toml="a = 1")

    async def hot_update_config(self, request: pb.HotUpdateConfigRequest, context: Request) -> pb.HotUpdateConfigReply:
        return pb.HotUpdateConfigReply()

    async def shutdown(self, request: pb.ShutdownRequest, context: Request) -> pb.ShutdownReply:
        return pb.ShutdownReply()


async def _exercise(carrier: Carrier, listen: str) -> None:
    server = carrier.server(listen, bind(_Service(), Core))
    await server.start()
    transport = carrier.transport()
    try:
        await _check(transport, server.address)
        await server.close()
        with pytest.raises((Unreachable, Timeout)):
            await invoke(transport, server.address, Core.GET_INFO, pb.GetInfoRequest(), timeout_s=2)
    finally:
        await transport.close()


async def _check(transport: Transport, address: str) -> None:
    async def echo(payload: bytes, timeout_s: float = 60) -> bytes:
        message = pb.EchoRequest(payload=payload)
        return (await invoke(transport, address, Core.ECHO, message, timeout_s=timeout_s)).payload

    assert await echo(b"x" * 100_000) == b"x" * 100_000 + b"!"
    assert (await invoke(transport, address, Core.GET_INFO, pb.GetInfoRequest(), timeout_s=60)).node_id == 7
    await _raises(StaleRouting, "chain 7 is at version 3", echo(b"stale"))
    await _raises(FileError, "No such file or directory: /a", echo(b"missing"))
    await _raises(Timeout, "did not answer|was not done", echo(b"slow", timeout_s=0.1))
    assert await echo(b"again") == b"again!"


async def _raises(error: type[ThreefsError], text: str, call: Awaitable[bytes]) -> None:
    with pytest.raises(error, match=text):
        await call


async def _real(make: Callable[[RealRuntime], Carrier], listen: str) -> None:
    runtime = RealRuntime()
    try:
        await _exercise(make(runtime), listen)
    finally:
        await runtime.close()


def test_frames() -> None:
    asyncio.run(_real(FrameCarrier, "127.0.0.1:0"))


def test_grpc() -> None:
    asyncio.run(_real(lambda _: GrpcCarrier(Core), "127.0.0.1:0"))


def test_loopback() -> None:
    asyncio.run(_real(lambda _: LoopbackCarrier(), "core"))


def test_simulated_network() -> None:
    simulation = Simulation(1)
    network = SimulatedNetwork(simulation)
    simulation.run(_exercise(network.carrier(simulation.runtime("host"), "host"), "host:1"))
