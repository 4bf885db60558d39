"""Being a node of the cluster: registration, heartbeats, self-fencing. Used by the meta and storage daemons.

The one rule: `is_fenced()` turns true before mgmtd can declare this node dead. It counts from the moment at which
the last answered heartbeat was *sent*, and mgmtd waits for longer from the moment at which it *came* (twice as long, or
a fifth more if the node's address refuses connections), so both need only clocks of nearly the same speed. It turns
false again only with the map that mgmtd had when it answered: a node that was cut off must not serve by the map of
before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from threefs.client.routing.mgmtd_client import MgmtdClient
from threefs.client.routing.routing_client import RoutingClient
from threefs.common.errors import Conflict, NotFound, ThreefsError, UserError
from threefs.common.ids import ChainVersion, TargetId
from threefs.common.routing import LocalState, Node
from threefs.common.routing_proto import node_to_proto
from threefs.common.runtime.interface import Runtime
from threefs.proto import mgmtd_pb2 as pb
from threefs.proto.mgmtd_rpc import Mgmtd

_log = logging.getLogger(__name__)

# Takes a new cluster configuration (text, version) over; returns the keys that wait for a restart.
# UserError refuses it and keeps the old one.
OnConfig = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """What a storage daemon says of one of its targets."""

    target: TargetId
    local: LocalState
    chain_version: ChainVersion  # of the routing by which `local` was decided; mgmtd ignores older ones
    disk_index: int = 0
    used_bytes: int = 0
    low_space: bool = False

    def to_proto(self) -> pb.TargetReport:
        return pb.TargetReport(
            target=self.target,
            local=self.local,
            chain_version=self.chain_version,
            disk_index=self.disk_index,
            used_bytes=self.used_bytes,
            low_space=self.low_space,
        )


@dataclass(slots=True)
class ConfigFollower:
    """The newest cluster configuration seen, and what became of it; shared by both agents."""

    on_config: OnConfig | None
    version: int = 0
    status: pb.ConfigStatus = field(default=pb.CONFIG_NORMAL)
    message: str = ""

    def take(self, config: pb.ConfigRecord) -> None:
        if config.version <= self.version or self.on_config is None:
            return
        self.version = config.version
        try:
            waiting = self.on_config(config.toml, config.version)
        except UserError as exc:
            self.status, self.message = pb.CONFIG_FAILED, f"{exc}; {exc.hint}"
            _log.error("cluster configuration %d refused: %s", config.version, self.message)
            return
        self.status = pb.CONFIG_DIRTY if waiting else pb.CONFIG_NORMAL
        self.message = "restart to take over: " + ", ".join(waiting) if waiting else ""


class HeartbeatAgent:
    """Registers `node`, then reports `targets()` every interval and at once after `poke()`."""

    def __init__(
        self,
        runtime: Runtime,
        mgmtd: MgmtdClient,
        node: Node,
        *,
        cluster_id: str = "",
        release: str = "",
        routing: RoutingClient | None = None,  # the map by which this node serves, if it serves by one
        targets: Callable[[], Sequence[TargetStatus]] = tuple,
        on_config: OnConfig | None = None,
    ) -> None:
        self.cluster_id = cluster_id  # empty: whatever mgmtd says, known after `start`
        self._runtime = runtime
        self._mgmtd = mgmtd
        self._node = node
        self._release = release
        self._routing = routing
        self._targets = targets
        self._config = ConfigFollower(on_config)
        self._incarnation = runtime.uuid()
        self._started_us = runtime.wall_us()
        self._number = 0
        self._timings = pb.Timings(heartbeat_interval_s=0.5, failure_timeout_s=3.0)
        self._answered_at = float("-inf")  # when the last answered heartbeat was sent
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, timeout_s: float = 30.0) -> None:
        """Registers and sends the first heartbeat; Conflict if the cluster or the node id is another's."""
        await self._register(timeout_s)
        await self._beat(timeout_s)
        self._task = self._runtime.spawn(self._run(), name="heartbeat")

    async def stop(self) -> None:
        """Says a last time how the targets are (a clean stop has made them OFFLINE); a silent mgmtd is no error."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            await self._beat(1.0)
        except ThreefsError as exc:
            _log.info("mgmtd did not hear of this node's end: %s", exc)

    def is_fenced(self) -> bool:
        """True when others may believe that this node is dead: no read, no write, no acknowledgement then."""
        return self._runtime.now() - self._answered_at > self._timings.failure_timeout_s / 2

    def poke(self) -> None:
        """Something in `targets()` changed: heartbeat now."""
        self._poked.set()

    async def _run(self) -> None:
        while True:
            await self._wait()
            try:
                await self._beat(self._timings.failure_timeout_s / 4)
            except (NotFound, Conflict) as exc:
                await self._return(exc)
            except ThreefsError as exc:
                _log.warning("heartbeat failed%s: %s", " (this node is fenced)" if self.is_fenced() else "", exc)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timings.heartbeat_interval_s):
                await self._poked.wait()
        except TimeoutError:
            return

    async def _beat(self, timeout_s: float) -> None:
        self._poked.clear()
        self._number += 1
        sent_at = self._runtime.now()
        request = pb.HeartbeatRequest(
            node=self._node.id,
            incarnation=self._incarnation,
            number=self._number,
            targets=[status.to_proto() for status in self._targets()],
            config_version=self._config.version,
            config_status=self._config.status,
            config_message=self._config.message,
        )
        reply = await self._mgmtd.call(Mgmtd.HEARTBEAT, request, timeout_s=timeout_s, attempt_s=timeout_s)
        self._timings = reply.timings
        if self._routing is not None and self._routing.routing.version < reply.routing_version:
            await self._routing.refresh(timeout_s=timeout_s)
        self._answered_at = max(self._answered_at, sent_at)
        if reply.HasField("config"):
            self._config.take(reply.config)

    async def _return(self, reason: ThreefsError) -> None:
        """mgmtd does not know this incarnation (any more): register again."""
        _log.warning("node %d has to register again: %s", self._node.id, reason)
        try:
            await self._register(self._timings.failure_timeout_s)
        except ThreefsError as exc:
            _log.error("node %d cannot register: %s", self._node.id, exc)

    async def _register(self, timeout_s: float) -> None:
        request = pb.RegisterNodeRequest(
            node=node_to_proto(self._node),
            cluster_id=self.cluster_id,
            incarnation=self._incarnation,
            started_us=self._started_us,
            release=self._release,
        )
        reply = await self._mgmtd.call(Mgmtd.REGISTER_NODE, request, timeout_s=timeout_s)
        self.cluster_id = reply.cluster_id
        self._timings = reply.timings
        if reply.HasField("config"):
            self._config.take(reply.config)
