"""A mgmtd daemon: wiring, and the loops that keep the lease and notice silence.

Tasks: `lease` (ticks, takes over, steps down), `changes` (`Cluster.work`), `check` (dead nodes, usage, expired
sessions), `standby` (heartbeats to the primary). They share `Cluster` and `Lease`; see there what is atomic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from threefs.common.config import check_partial, parse_toml
from threefs.common.errors import NotPrimary, ThreefsError
from threefs.common.ids import NodeId
from threefs.common.kv.interface import KvEngine
from threefs.common.net.interface import Carrier, Handler
from threefs.common.net.service import bind
from threefs.common.routing import Node, NodeStatus, NodeType
from threefs.common.runtime.interface import Runtime
from threefs.mgmtd import metrics
from threefs.mgmtd import state as rules
from threefs.mgmtd.cluster import Cluster
from threefs.mgmtd.config import MgmtdConfig
from threefs.mgmtd.lease import Lease
from threefs.mgmtd.probe import refuses_connections
from threefs.mgmtd.service import MgmtdService, Validator
from threefs.mgmtd.standby import Standby
from threefs.mgmtd.store import Store
from threefs.proto.mgmtd_rpc import Mgmtd

_log = logging.getLogger(__name__)

STALL_S = 0.5  # a check that comes so much too late means that this daemon, not the others, stood still


class MgmtdServer:
    """One mgmtd. `engine` is closed by whoever opened it; `service` may be served by further carriers."""

    def __init__(
        self,
        config: MgmtdConfig,
        *,
        runtime: Runtime,
        carrier: Carrier,
        engine: KvEngine,
        address: str = "",  # where others reach this daemon; empty: where it listens
        grpc_address: str = "",
        hostname: str = "",
        pid: int = 0,
        validators: Mapping[NodeType, Validator] | None = None,  # of configurations of other rooms' daemons
        handlers: Mapping[int, Handler] | None = None,  # served along (the Core service)
    ) -> None:
        self.config = config
        self.node = Node(
            NodeId(config.node_id), NodeType.MGMTD, NodeStatus.CONNECTING, address, grpc_address, hostname, pid
        )
        self._runtime = runtime
        self.lease = Lease(runtime, engine, config.lease, node=self.node.id)
        self.cluster = Cluster(runtime, Store(engine, self.lease.holder), self.lease, config)
        checks = dict.fromkeys(NodeType, _check_toml) | {NodeType.MGMTD: _check_own}
        self.service = MgmtdService(runtime, self.cluster, self.lease, checks | dict(validators or {}))
        self._server = carrier.server(config.listen, {**bind(self.service, Mgmtd), **(handlers or {})})
        self._transport = carrier.transport()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listens, and tries for the lease; returns before this daemon knows whether it is primary."""
        await self._server.start()
        self.node = replace(self.node, address=self.node.address or self._server.address)
        self.lease.set_address(self.node.address)
        standby = Standby(self._runtime, self._transport, self.lease, self.node)
        self._tasks = [
            self._runtime.spawn(self.cluster.work(), name="changes"),
            self._runtime.spawn(self._keep_lease(), name="lease"),
            self._runtime.spawn(self._check(), name="check"),
            self._runtime.spawn(self._stand_by(standby), name="standby"),
        ]

    async def stop(self) -> None:
        """Gives the lease back, so that another mgmtd takes it at once."""
        self.cluster.step_down("this daemon stops")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.close()
        await self.lease.release()
        await self._transport.close()

    async def _keep_lease(self) -> None:
        """Primary while the lease is held: takes over when it is won, steps down when it is lost."""
        while True:
            held = await self.lease.tick()
            if held and not self.cluster.leads:
                try:
                    await self.cluster.lead(self.node)
                except ThreefsError as exc:
                    _log.error("cannot take over: %s", exc)
            elif not held:
                self.cluster.step_down("the lease is lost")
            await self._runtime.sleep(self._runtime.jitter(self.config.lease.extend_s, 0.1))

    async def _check(self) -> None:
        usage_at = self._runtime.now()
        while True:
            interval_s = self.cluster.config.check_interval_s
            before = self._runtime.now()
            await self._runtime.sleep(interval_s)
            now = self._runtime.now()
            if now - before - interval_s > STALL_S:
                self.cluster.forgive(now - before - interval_s)
            try:
                await self._check_once()
                if now - usage_at > self.cluster.config.usage_interval_s:
                    usage_at = now
                    await self.cluster.apply(rules.publish_usage)
            except NotPrimary:
                continue
            except ThreefsError as exc:
                _log.warning("check of the cluster failed: %s", exc)

    async def _check_once(self) -> None:
        for node in self.cluster.silent_nodes():
            _log.warning("node %d is silent: declared dead", node)
            await self.cluster.fail(node)
            metrics.NODES_FAILED.inc()
        if fenced := self.cluster.fenced_nodes():
            await self._knock(fenced)
        for session in self.cluster.sessions.expire(self._runtime.now()):
            _log.info("session of client %s (%s) expired", session.client.hex(), session.description)
            metrics.SESSIONS_EXPIRED.inc()

    async def _knock(self, fenced: Sequence[Node]) -> None:
        """Declares those dead at whose address nobody listens any more."""
        answers = await asyncio.gather(*[refuses_connections(self._transport, node.address) for node in fenced])
        for node, refused in zip(fenced, answers, strict=True):
            if refused:
                _log.warning("node %d is silent and %s refuses connections: declared dead", node.id, node.address)
                await self.cluster.fail(node.id, gone=True)
                metrics.NODES_FAILED.inc()

    async def _stand_by(self, standby: Standby) -> None:
        while True:
            if not self.cluster.leads:
                await standby.beat()
            await self._runtime.sleep(self._runtime.jitter(self.config.heartbeat_interval_s))


def _check_toml(text: str) -> None:
    parse_toml(text, where="the configuration")


def _check_own(text: str) -> None:
    check_partial(text, MgmtdConfig, where="the configuration")
