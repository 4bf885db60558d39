"""A metadata daemon: wiring, and its background tasks.

Tasks: `garbage`, `sessions` and `requests` (see `gc`, `sessions`, and `_clean_requests` here). They share nothing with
the requests being served but the `Environment`, whose state is caches and locks; what is true is in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from threefs.client.routing import HeartbeatAgent, RoutingClient
from threefs.client.storage.types import StorageClient
from threefs.common.config import overlay
from threefs.common.errors import ThreefsError
from threefs.common.ids import ClientId, NodeId
from threefs.common.kv.interface import KvEngine
from threefs.common.net.interface import Carrier, Handler, Transport
from threefs.common.net.service import bind
from threefs.common.routing import Node, NodeStatus, NodeType
from threefs.common.runtime.interface import Runtime
from threefs.meta import store
from threefs.meta.bootstrap import prepare_store
from threefs.meta.config import MetaConfig
from threefs.meta.context import Environment
from threefs.meta.gc import Collector
from threefs.meta.quick_lookup import QuickLookup
from threefs.meta.service import MetaService
from threefs.meta.sessions import SessionPruner
from threefs.meta.view import View
from threefs.meta.workers import Ownership, Periodic
from threefs.proto import lookup
from threefs.proto.meta_rpc import Meta

_log = logging.getLogger(__name__)

MakeStorage = Callable[[RoutingClient, Transport], StorageClient]


class MetaServer:
    """One metadata daemon. `engine` is closed by whoever opened it; `service` may be served by further carriers."""

    def __init__(
        self,
        config: MetaConfig,
        *,
        runtime: Runtime,
        carrier: Carrier,
        engine: KvEngine,
        make_storage: MakeStorage,
        address: str = "",  # where others reach this daemon; empty: where it listens
        grpc_address: str = "",
        hostname: str = "",
        pid: int = 0,
        release: str = "",
        handlers: Mapping[int, Handler] | None = None,  # served along (the Core service)
    ) -> None:
        self.config = self._file_config = config
        self.node = Node(
            NodeId(config.node_id), NodeType.META, NodeStatus.CONNECTING, address, grpc_address, hostname, pid
        )
        self._runtime = runtime
        self._release = release
        self._transport = carrier.transport()
        self.routing = RoutingClient(runtime, self._transport, config.mgmtd)
        storage = make_storage(self.routing, self._transport)
        self.env = Environment(
            config, runtime=runtime, engine=engine, storage=storage, routing=lambda: self.routing.routing
        )
        self.service = MetaService(self.env)
        self._server = carrier.server(
            config.listen, {**bind(self.service, Meta), lookup.METHOD: QuickLookup(self.env), **(handlers or {})}
        )
        self._heartbeat: HeartbeatAgent | None = None
        self._workers: list[Periodic] = []
        self._started = False  # before that, every key of the cluster's configuration is taken over

    def _make_workers(self) -> list[Periodic]:
        env = self.env
        owns = Ownership(self.node.id, env.routing).owns
        collector = Collector(env, owns)
        pruner = SessionPruner(env, owns, self._live_clients)

        async def clean() -> None:
            if owns(0):
                await clean_requests(env)

        garbage = Periodic(self._runtime, "garbage", collector.round, lambda: env.config.garbage.scan_interval_s)
        env.wake_collector = garbage.wake
        return [
            garbage,
            Periodic(self._runtime, "sessions", pruner.round, lambda: env.config.sessions.scan_interval_s),
            Periodic(self._runtime, "requests", clean, lambda: env.config.tuning.request_clean_s),
        ]

    async def start(self) -> None:
        """Serves from the moment at which mgmtd is reached and the store is found to be this cluster's."""
        await self.routing.start()
        cluster_id = self.config.cluster_id or self.routing.routing.cluster_id
        await prepare_store(self.env, cluster_id)
        await self._server.start()
        self.node = replace(self.node, address=self.node.address or self._server.address)
        self._heartbeat = HeartbeatAgent(
            self._runtime,
            self.routing.mgmtd,
            self.node,
            cluster_id=cluster_id,
            release=self._release,
            on_config=self.take_config,
        )
        await self._heartbeat.start()
        self._started = True
        self._workers = self._make_workers()
        for worker in self._workers:
            worker.start()
        _log.info("metadata daemon %d serves at %s", self.node.id, self.node.address)

    async def stop(self) -> None:
        """Ends background work first, then lets running requests finish."""
        for worker in self._workers:
            await worker.stop()
        await self._server.close()
        if self._heartbeat is not None:
            await self._heartbeat.stop()
        await self.routing.stop()
        await self._transport.close()

    def take_config(self, text: str, version: int) -> Sequence[str]:
        """Takes over a new cluster configuration, once started only its hot keys; returns those that wait for a
        restart. What is needed before mgmtd can be reached (node id, addresses, store) counts as the file says it."""
        taken = overlay(
            self.config,
            text,
            where=f"cluster configuration {version}",
            file=self._file_config,
            starting=not self._started,
        )
        self.config = taken.config
        self.env.config = taken.config
        return taken.waiting

    async def _live_clients(self) -> frozenset[ClientId] | None:
        try:
            reply = await self.routing.mgmtd.list_client_sessions()
        except ThreefsError as exc:
            _log.info("sessions are not pruned, mgmtd does not say who is alive: %s", exc)
            return None
        return frozenset(ClientId(session.client) for session in reply.sessions) if reply.complete else None


async def clean_requests(env: Environment) -> None:
    """Forgets requests that are too old to be sent again (see `Context.mutate`)."""
    keep_us = int(env.config.tuning.request_record_s * 1e6)
    begin, end = store.requests_before(env.runtime.wall_us() - keep_us)

    async def body(view: View) -> None:
        if await view.txn.get_range(begin, end, limit=1, snapshot=True):
            view.txn.clear_range(begin, end)

    await env.transact(body)
