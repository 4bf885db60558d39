"""Frames over real sockets: errors by class, scatter in place, damage ends the connection, no request is lost."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from threefs.common.errors import FileError, InternalError, StaleRouting, Timeout, Unreachable, Unsupported, UserError
from threefs.common.net.frame import HEADER_BYTES, FrameDamaged, Header, Kind, pack, unpack
from threefs.common.net.frame_server import FrameCarrier
from threefs.common.net.frames import FrameProtocol
from threefs.common.net.interface import Reply, Request, Transport
from threefs.common.runtime.real import RealRuntime

pytestmark = pytest.mark.unit


async def _echo(request: Request) -> Reply:
    return Reply(request.body, [request.data])


async def _fail(request: Request) -> Reply:
    errors = {b"stale": StaleRouting("chain 7"), b"file": FileError(2, "/x"), b"bug": ValueError("oops")}
    raise errors[request.body]


async def _slow(request: Request) -> Reply:
    await asyncio.sleep(float(request.body))
    return Reply(b"late", [b"x" * 100_000])


@asynccontextmanager
async def _served() -> AsyncIterator[tuple[Transport, str]]:
    runtime = RealRuntime()
    carrier = FrameCarrier(runtime)
    server = carrier.server("127.0.0.1:0", {1: _echo, 2: _fail, 3: _slow})
    await server.start()
    transport = carrier.transport()
    try:
        yield transport, server.address
    finally:
        await transport.close()
        await server.close()
        await runtime.close()


def _run(test: Callable[[Transport, str], Awaitable[None]]) -> None:
    async def main() -> None:
        async with _served() as (transport, address):
            await test(transport, address)

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 5000, 1 << 20, 9_000_001])
def test_data_of_any_size_comes_back(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"z" * (size % 256)

    async def test(transport: Transport, address: str) -> None:
        reply = await transport.call(address, 1, b"body", [payload[: size // 3], payload[size // 3 :]], timeout_s=60)
        assert reply.body == b"body"
        assert b"".join(reply.data) == payload

    _run(test)


def test_scatter_receives_into_the_callers_views() -> None:
    async def test(transport: Transport, address: str) -> None:
        first, second = bytearray(1000), bytearray(99_000)

        def scatter(body: bytes, length: int) -> Sequence[memoryview]:
            assert (body, length) == (b"b", 100_000)
            return [memoryview(first), memoryview(second)]

        reply = await transport.call(address, 1, b"b", [b"q" * 100_000], timeout_s=60, scatter=scatter)
        assert reply.data == ()
        assert first + second == b"q" * 100_000

    _run(test)


def test_many_requests_in_flight_find_their_answers() -> None:
    async def test(transport: Transport, address: str) -> None:
        async def one(number: int) -> None:
            body = str(number).encode()
            data = bytes([number % 256]) * (number * 37 % 70_000)
            reply = await transport.call(address, 1, body, [data], timeout_s=60)
            assert (reply.body, b"".join(reply.data)) == (body, data)

        await asyncio.gather(*(one(number) for number in range(300)))

    _run(test)


def test_errors_arrive_as_their_class() -> None:
    async def test(transport: Transport, address: str) -> None:
        with pytest.raises(StaleRouting, match="chain 7"):
            await transport.call(address, 2, b"stale", timeout_s=60)
        with pytest.raises(FileError, match="No such file or directory: /x"):
            await transport.call(address, 2, b"file", timeout_s=60)
        with pytest.raises(InternalError, match="ValueError: oops"):
            await transport.call(address, 2, b"bug", timeout_s=60)
        with pytest.raises(Unsupported, match="0x0063"):
            await transport.call(address, 99, b"", timeout_s=60)

    _run(test)


def test_a_late_answer_does_not_touch_the_buffers_of_a_caller_that_gave_up() -> None:
    async def test(transport: Transport, address: str) -> None:
        target = bytearray(100_000)
        await transport.call(address, 1, b"", timeout_s=60)  # connecting has a limit and an error of its own
        with pytest.raises(Timeout, match="method 0x0003 within 0.05 s"):
            await transport.call(address, 3, b"0.2", timeout_s=0.05, scatter=lambda _b, _n: [memoryview(target)])
        assert (await transport.call(address, 3, b"0.3", timeout_s=60)).body == b"late"
        assert not any(target)

    _run(test)


def test_nobody_listens_and_a_port_in_use() -> None:
    async def test(transport: Transport, address: str) -> None:
        with pytest.raises(UserError, match=f"cannot listen on {address}: the port is in use"):
            await FrameCarrier(RealRuntime()).server(address, {}).start()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            with pytest.raises(Unreachable, match="nobody listens"):
                await transport.call(f"127.0.0.1:{free.getsockname()[1]}", 1, b"", timeout_s=60)

    _run(test)


def test_a_damaged_or_truncated_frame_ends_only_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def test(transport: Transport, address: str) -> None:
        whole = pack(Kind.REQUEST, 1, 1, b"body", 0, timeout_ms=60_000)
        for position in range(len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 0x10
            assert await _raw_exchange(address, bytes(damaged)) == b"", f"byte {position} was not checked"
        assert await _raw_exchange(address, whole[:-2], end=True) == b""
        assert len(await _raw_exchange(address, whole, end=False)) == HEADER_BYTES + 4
        assert (await transport.call(address, 1, b"still here", timeout_s=60)).body == b"still here"

    _run(test)
    assert "damaged frame from 127.0.0.1" in caplog.text


async def _raw_exchange(address: str, sent: bytes, *, end: bool = False) -> bytes:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    if end:
        writer.write_eof()
    try:
        async with asyncio.timeout(60):
            return await reader.readexactly(HEADER_BYTES + 4)
    except asyncio.IncompleteReadError as exc:
        return exc.partial
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_lengths_beyond_the_limits_are_refused() -> None:
    header = bytearray(pack(Kind.REPLY, 1, 1, b"", 0))
    assert unpack(header).kind is Kind.REPLY
    with pytest.raises(FrameDamaged, match="does not speak 3fs frames"):
        unpack(b"GET / HTTP/1.1\r\n" + bytes(HEADER_BYTES))


class _Taken(FrameProtocol):
    """A receiving end that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[int, bytes, bytes]] = []

    def frame_received(self, header: Header, body: bytes, data: Sequence[memoryview]) -> None:
        self.taken.append((header.request_id, body, b"".join(data)))


@pytest.mark.parametrize("step", [1, 7, 39, 41, 4096, 1 << 20])
def test_frames_are_cut_out_of_any_pieces(step: int) -> None:
    """Small frames that share a read, bodies and data larger than the stage, and every place where a read may end."""
    sizes = [(0, 0), (1, 0), (0, 1), (30, 70), (8192, 0), (8193, 0), (8152, 9), (20_000, 30_000), (5, 8192), (3, 0)]
    sent, expected = b"", []
    for number, (body_bytes, data_bytes) in enumerate(sizes):
        body, data = bytes([number + 1]) * body_bytes, bytes([number + 101]) * data_bytes
        sent += pack(Kind.REPLY, 1, number, body, data_bytes) + data
        expected.append((number, body, data))
    end = _Taken()
    at = 0
    while at < len(sent):
        view = end.get_buffer(-1)
        count = min(len(view), step, len(sent) - at)
        assert count, f"no room for byte {at}"
        view[:count] = sent[at : at + count]
        end.buffer_updated(count)
        at += count
    assert end.taken == expected
