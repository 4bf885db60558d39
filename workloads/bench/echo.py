"""The ceiling of library reads: a bare server that answers frames with preads, in a process of its own.

No routing, no versions, no checksums: what the wire, the kernel's page cache and one Python call a frame allow.
"""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from threefs.common.net.frame_server import FrameCarrier
from threefs.common.net.interface import Reply, Request
from threefs.common.runtime.real import RealRuntime
from threefs.native.buffers import buffer

METHOD = 0x0F01
_READ = struct.Struct("<QI")


class EchoServer:
    """Body: (offset, length) pairs; data: those bytes of one file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    async def read(self, request: Request) -> Reply:
        pieces = list(_READ.iter_unpack(request.body))
        out = buffer(sum(length for _, length in pieces))
        start = 0
        for offset, length in pieces:
            os.preadv(self._descriptor, [out[start : start + length]], offset)
            start += length
        return Reply(b"", [out])


def pack(pieces: list[tuple[int, int]]) -> bytes:
    return b"".join(_READ.pack(offset, length) for offset, length in pieces)


async def serve(path: Path) -> None:
    """Serves until it is killed; prints the address."""
    runtime = RealRuntime()
    server = FrameCarrier(runtime).server("127.0.0.1:0", {METHOD: EchoServer(path).read})
    await server.start()
    print(server.address, flush=True)
    await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def echo_process(path: Path) -> AsyncIterator[str]:
    """The address of an echo server in another process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "threefs.workloads.bench.echo", str(path), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(Path(sys.argv[1])))
