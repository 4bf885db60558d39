"""How each daemon is put together from its configuration: the only place where the real world is plugged in.

A role's builder gives an object with `start` and `stop`, and registers what has to be closed after it. Adding a role:
one configuration class, one builder, one line in `ROLES`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pydantic import Field

from threefs.cli.core_service import RELEASE, CoreService
from threefs.common.config import Address, Config, check_partial, local
from threefs.common.errors import UserError
from threefs.common.kv.factory import KvConfig, await_engine
from threefs.common.net.frame_server import FrameCarrier
from threefs.common.net.grpc_carrier import GrpcServer
from threefs.common.net.interface import Handler
from threefs.common.net.service import bind
from threefs.common.routing import NodeType
from threefs.common.runtime.real import RealRuntime
from threefs.fuse.config import MountConfig
from threefs.meta.config import MetaConfig
from threefs.mgmtd.config import MgmtdConfig
from threefs.proto.core_rpc import Core
from threefs.storage.config import StorageConfig


class ProcessConfig(Config):
    """The `[process]` section: what concerns the process, not the service."""

    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_json: bool = False
    metrics_listen: Address = ""  # "host:port" of the Prometheus page; empty: none
    grpc_listen: Address = ""  # "host:port" of the gRPC carrier; empty: none


class MgmtdFile(MgmtdConfig):
    process: ProcessConfig = local(ProcessConfig())
    kv: KvConfig = local(KvConfig())


class MetaFile(MetaConfig):
    process: ProcessConfig = local(ProcessConfig())


class StorageFile(StorageConfig):
    process: ProcessConfig = local(ProcessConfig())


class MountFile(MountConfig):
    process: ProcessConfig = local(ProcessConfig())


class Daemon(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(slots=True)
class World:
    """What a builder is given. `closing` runs after the daemon has stopped, last in first out."""

    runtime: RealRuntime
    carrier: FrameCarrier
    core: CoreService
    closing: AsyncExitStack

    @property
    def handlers(self) -> dict[int, Handler]:
        return bind(self.core, Core)


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    node_type: NodeType
    config: type[Any]
    build: Callable[[Any, World], Awaitable[Daemon]]
    node_id: Callable[[Any], int]


async def build_mgmtd(config: MgmtdFile, world: World) -> Daemon:
    from threefs.mgmtd.server import MgmtdServer
    from threefs.proto.mgmtd_rpc import Mgmtd

    engine = await await_engine(config.kv, world.runtime)
    world.closing.push_async_callback(engine.close)
    server = MgmtdServer(
        config,
        runtime=world.runtime,
        carrier=world.carrier,
        engine=engine,
        grpc_address=config.process.grpc_listen,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        validators={
            role.node_type: partial(check_partial, model=role.config, where="the configuration")
            for role in ROLES.values()
        },
        handlers=world.handlers,
    )
    await _serve_grpc(config.process, {**bind(server.service, Mgmtd), **world.handlers}, [Mgmtd, Core], world)
    return server


async def build_meta(config: MetaFile, world: World) -> Daemon:
    from threefs.client.connect import make_storage
    from threefs.meta.server import MetaServer
    from threefs.proto.meta_rpc import Meta

    engine = await await_engine(config.kv, world.runtime)
    world.closing.push_async_callback(engine.close)
    server = MetaServer(
        config,
        runtime=world.runtime,
        carrier=world.carrier,
        engine=engine,
        make_storage=make_storage(world.runtime),
        grpc_address=config.process.grpc_listen,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        release=RELEASE,
        handlers=world.handlers,
    )
    await _serve_grpc(config.process, {**bind(server.service, Meta), **world.handlers}, [Meta, Core], world)
    return server


async def build_storage(config: StorageFile, world: World) -> Daemon:
    from threefs.storage.disks import OpenDisk
    from threefs.storage.server import StorageServer

    return StorageServer(
        config,
        runtime=world.runtime,
        carrier=world.carrier,
        open_engine=OpenDisk(config),
        hostname=socket.gethostname(),
        pid=os.getpid(),
        release=RELEASE,
        handlers=world.handlers,
    )


async def build_mount(config: MountFile, world: World) -> Daemon:
    from threefs.client.connect import make_storage
    from threefs.fuse.server import MountServer

    return MountServer(
        config,
        runtime=world.runtime,
        carrier=world.carrier,
        make_storage=make_storage(world.runtime),
        hostname=socket.gethostname(),
        pid=os.getpid(),
    )


async def _serve_grpc(config: ProcessConfig, handlers: Mapping[int, Handler], tables: list[type], world: World) -> None:
    if config.grpc_listen:
        server = GrpcServer(config.grpc_listen, handlers, tables)
        await server.start()
        world.closing.push_async_callback(server.close)


ROLES = {
    role.name: role
    for role in (
        Role("mgmtd", NodeType.MGMTD, MgmtdFile, build_mgmtd, lambda config: config.node_id),
        Role("meta", NodeType.META, MetaFile, build_meta, lambda config: config.node_id),
        Role("storage", NodeType.STORAGE, StorageFile, build_storage, lambda config: config.node_id),
        Role("mount", NodeType.FUSE, MountFile, build_mount, lambda config: 0),
    )
}


def role_named(name: str) -> Role:
    if name not in ROLES:
        raise UserError(f"unknown role {name!r}", f"roles: {', '.join(ROLES)}")
    return ROLES[name]
