"""A storage daemon, wired: disks, targets, data and control services, heartbeats and the loops behind them.

Made by the command line with sockets and native engines, and by the simulation with virtual ones. The one rule:
nothing is served before the disks are open, and nothing is reported before it can be served.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from threefs.client.routing import HeartbeatAgent, MgmtdClient, RoutingClient
from threefs.common.config import overlay
from threefs.common.errors import ThreefsError
from threefs.common.ids import NodeId
from threefs.common.net.interface import Carrier, Handler, Server
from threefs.common.net.service import bind
from threefs.common.routing import Node, NodeStatus, NodeType
from threefs.common.runtime.interface import Runtime
from threefs.proto.storage_rpc import Storage
from threefs.storage import metrics
from threefs.storage.config import DiskConfig, StorageConfig
from threefs.storage.data_service import DataService
from threefs.storage.engine import ChunkEngine, DiskFailed
from threefs.storage.fetch import Fetcher
from threefs.storage.forwarding import Forwarder
from threefs.storage.reading import Reader
from threefs.storage.repair import Repairer
from threefs.storage.replica import Place
from threefs.storage.replication import Replicator
from threefs.storage.resync import Resyncer
from threefs.storage.service import StorageService
from threefs.storage.state import Phase
from threefs.storage.targets import Disk, LocalTarget, TargetSet

_log = logging.getLogger(__name__)

OpenEngine = Callable[[int, DiskConfig], Awaitable[ChunkEngine]]  # (disk index, its configuration)


class StorageServer:
    """One daemon. `address` is known after `start`."""

    def __init__(
        self,
        config: StorageConfig,
        *,
        runtime: Runtime,
        carrier: Carrier,
        open_engine: OpenEngine,
        hostname: str = "",
        pid: int = 0,
        release: str = "",
        handlers: Mapping[int, Handler] | None = None,  # served along (the Core service)
    ) -> None:
        self.config = self._file_config = config
        self.address = config.listen
        self._runtime = runtime
        self._carrier = carrier
        self._open_engine = open_engine
        self._hostname = hostname
        self._pid = pid
        self._release = release
        self._handlers = dict(handlers or {})
        self._transport = carrier.transport()
        self._mgmtd = MgmtdClient(runtime, self._transport, config.mgmtd)
        self.routing = RoutingClient(runtime, self._transport, config.mgmtd)
        self.targets: TargetSet
        self.heartbeat: HeartbeatAgent
        self._replicator: Replicator
        self._resyncer: Resyncer
        self._server: Server | None = None
        self._disks: list[Disk] = []

    async def start(self) -> None:
        """Opens the disks, serves, registers; raises what an operator has to hear (a folder, a port, mgmtd)."""
        for index, disk in enumerate(self.config.disks):
            engine = await self._open_engine(index, disk)
            self._disks.append(Disk(index, engine))
            self._report_recovery(index, engine)
        await self.routing.start()
        self._wire()
        assert self._server is not None
        await self._server.start()
        self.address = self._server.address
        self.heartbeat = HeartbeatAgent(
            self._runtime,
            self._mgmtd,
            self._node(),
            cluster_id=self.config.cluster_id,
            release=self._release,
            routing=self.routing,
            targets=self.targets.statuses,
            on_config=self.take_config,
        )
        await self._check_disks()
        self.targets.follow()
        await self.heartbeat.start()
        for name, loop in (
            ("map", self._follow_map()),
            ("disks", self._watch_disks()),
            ("sync", self._resyncer.run()),
            ("resolve", self._resolve_pending()),
        ):
            self._runtime.spawn(loop, name=f"storage {name}")

    def _wire(self) -> None:
        self.targets = TargetSet(
            self._runtime,
            self.routing,
            self._disks,
            on_change=self._on_change,
            config=self._in_force,
        )
        runtime, transport, routing, targets = self._runtime, self._transport, self.routing, self.targets
        forwarder = Forwarder(runtime, transport, routing, targets, self._in_force)
        fetcher = Fetcher(transport, routing, self._in_force)
        self._replicator = Replicator(runtime, targets, forwarder, fetcher, is_fenced=self._is_fenced)
        repairer = Repairer(runtime, transport, routing, targets, self._replicator)
        self._resyncer = Resyncer(
            runtime, transport, routing, targets, self._replicator, forwarder, repairer, self._in_force
        )
        reader = Reader(targets, is_fenced=self._is_fenced, on_damage=repairer.report)
        data = DataService(runtime, routing, targets, reader, self._replicator, self._in_force)
        control = StorageService(runtime, routing, targets, self._replicator, repairer, is_fenced=self._is_fenced)
        handlers = {**self._handlers, **data.handlers(), **bind(control, Storage)}
        self._server = self._carrier.server(self.config.listen, handlers)

    async def stop(self) -> None:
        """Leaves the cluster in order: mgmtd hears that all targets are offline, then the disks are closed."""
        if hasattr(self, "targets"):
            self.targets.retire()
        if hasattr(self, "heartbeat"):
            await self.heartbeat.stop()
        await self.routing.stop()
        if self._server is not None:
            await self._server.close()
        for disk in self._disks:
            await disk.engine.close()
        await self._transport.close()

    def take_config(self, text: str, version: int) -> Sequence[str]:
        """Takes over the hot keys of a new cluster configuration; returns those that wait for a restart."""
        taken = overlay(self.config, text, where=f"cluster configuration {version}", file=self._file_config)
        self.config = taken.config
        return taken.waiting

    def _in_force(self) -> StorageConfig:
        return self.config

    def _node(self) -> Node:
        return Node(
            NodeId(self.config.node_id),
            NodeType.STORAGE,
            NodeStatus.CONNECTING,
            self.address,
            hostname=self._hostname,
            pid=self._pid,
        )

    def _is_fenced(self) -> bool:
        return self.heartbeat.is_fenced()

    def _on_change(self) -> None:
        if hasattr(self, "heartbeat"):
            self.heartbeat.poke()

    def _report_recovery(self, index: int, engine: ChunkEngine) -> None:
        found = engine.recovery
        _log.info("disk %d: %d chunks, %d with an update in flight", index, found.chunks, found.pending)
        for sentence in found.dropped:
            _log.warning("disk %d: %s", index, sentence)

    # --- loops -------------------------------------------------------------------------------------------------

    async def _follow_map(self) -> None:
        while True:
            seen = self.routing.routing.version
            self.targets.follow()
            self._resyncer.scan()
            await self.routing.wait_newer(seen)

    async def _watch_disks(self) -> None:
        while True:
            await self._runtime.sleep(self._runtime.jitter(self.config.disk_check_interval_s))
            await self._check_disks()

    async def _check_disks(self) -> None:
        """A disk that cannot be written and read back takes its targets out of service."""
        for disk in self._disks:
            if disk.problem:
                continue
            try:
                await disk.engine.check()
                disk.space = await disk.engine.space()
            except DiskFailed as exc:
                self.targets.fail_disk(disk, exc)
        states = [target.life.phase for target in self.targets]
        for phase in Phase:
            metrics.TARGETS.labels(state=phase.name.lower()).set(states.count(phase))

    async def _resolve_pending(self) -> None:
        """Updates that their senders gave up are finished by the head, so that replicas become equal again."""
        while True:
            await self._runtime.sleep(self._runtime.jitter(1.0))
            for target, place in self.targets.places():
                await self._resolve_target(target, place)

    async def _resolve_target(self, target: LocalTarget, place: Place) -> None:
        chunks = target.channels.unresolved()
        if not chunks or place.predecessor is not None or target.life.phase is not Phase.UPTODATE:
            return
        try:
            await self._replicator.resolve(target, place, chunks)
        except ThreefsError as exc:
            _log.info("chain %d: updates in flight are not finished yet: %s", place.chain.id, exc)
