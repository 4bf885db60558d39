"""A process's connection to a cluster: routing, client session, metadata and storage clients, in one place.

async with connect(["10.0.0.1:9000"]) as fs:
    await fs.write_bytes("/hello", b"world")
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from threefs.client.filesystem import FileSystem
from threefs.client.meta.client import MetaClient
from threefs.client.meta.transport import routed_nodes
from threefs.client.routing import ClientSessionAgent, RoutingClient
from threefs.client.storage.client import ChainStorageClient
from threefs.client.storage.types import StorageClient
from threefs.common.files import Credentials
from threefs.common.ids import ClientId
from threefs.common.net.frame_server import FrameCarrier
from threefs.common.net.interface import Transport
from threefs.common.runtime.interface import Runtime
from threefs.common.runtime.real import RealRuntime


def make_storage(runtime: Runtime) -> Callable[[RoutingClient, Transport], StorageClient]:
    """For daemons that need a storage client of their own (`MetaServer`)."""

    def make(routing: RoutingClient, transport: Transport) -> StorageClient:
        return ChainStorageClient(runtime, transport, routing)

    return make


def current_user() -> Credentials:
    """Whoever runs this process; THREEFS_TOKEN is its token where the cluster asks for one."""
    return Credentials(os.getuid(), os.getgid(), tuple(os.getgroups()), os.environ.get("THREEFS_TOKEN", ""))


@dataclass(frozen=True, slots=True)
class Connection:
    """The parts of a connection, for tools that need more than files."""

    runtime: Runtime
    transport: Transport
    routing: RoutingClient
    meta: MetaClient
    storage: StorageClient


@asynccontextmanager
async def open_connection(
    mgmtd: Sequence[str],
    *,
    user: Credentials | None = None,
    timeout_s: float = 60.0,
    description: str = "library",
) -> AsyncIterator[Connection]:
    """All clients for the running event loop; `mgmtd` are "host:port". Timeout if no mgmtd answers."""
    runtime = RealRuntime()
    client_id = ClientId(runtime.uuid())
    async with AsyncExitStack() as closing:
        closing.push_async_callback(runtime.close)
        transport = FrameCarrier(runtime).transport()
        closing.push_async_callback(transport.close)
        routing = RoutingClient(runtime, transport, mgmtd)
        await routing.start(timeout_s=min(timeout_s, 30.0))
        closing.push_async_callback(routing.stop)
        session = ClientSessionAgent(
            runtime,
            routing.mgmtd,
            client_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            description=description,
        )
        await session.start()
        closing.push_async_callback(session.stop)
        nodes = routed_nodes(lambda: routing.routing)
        meta = MetaClient(runtime, transport, nodes, client_id, user=user or current_user(), timeout_s=timeout_s)
        storage = ChainStorageClient(runtime, transport, routing, client=client_id, timeout_s=timeout_s)
        yield Connection(runtime, transport, routing, meta, storage)


@asynccontextmanager
async def connect(
    mgmtd: Sequence[str],
    *,
    user: Credentials | None = None,
    timeout_s: float = 60.0,
    description: str = "library",
) -> AsyncIterator[FileSystem]:
    """A file system for the running event loop. At the end everything that was written is stored."""
    opened = open_connection(mgmtd, user=user, timeout_s=timeout_s, description=description)
    async with opened as connection:
        files = FileSystem(connection.runtime, connection.meta, connection.storage)
        files.files.start()
        try:
            yield files
        finally:
            await files.files.flush_all()
