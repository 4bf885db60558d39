"""The primary's copy of the cluster: the state in memory, always equal to what is stored. Used by service and server.

Concurrency: all changes pass one queue that one task (`_work`) empties, so a change sees the result of the one before
it. What has gathered in the queue is stored in one transaction; only then is it in `state`, answered, and sent to
those who wait for a new map. The one rule: when a save fails, or its outcome is unknown, this daemon stops being
primary and loads everything again once it holds the lease; memory never runs ahead of, or behind, the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from threefs.common.config import overlay
from threefs.common.errors import Busy, NotPrimary, ThreefsError, UserError
from threefs.common.ids import NodeId, RoutingVersion
from threefs.common.routing import Node, NodeStatus, NodeType
from threefs.common.routing_proto import routing_to_proto
from threefs.common.runtime.interface import Runtime
from threefs.mgmtd import metrics
from threefs.mgmtd import state as rules
from threefs.mgmtd.config import MgmtdConfig
from threefs.mgmtd.lease import Lease
from threefs.mgmtd.sessions import Sessions
from threefs.mgmtd.state import State
from threefs.mgmtd.store import Store
from threefs.proto import mgmtd_pb2 as pb

Change = Callable[[State], State]
_log = logging.getLogger(__name__)

QUEUE_MAX = 10_000
FENCED_SHARE = 0.6  # of the failure timeout: a daemon fences itself after half of it; the rest is for unequal clocks


class Cluster:
    """What this daemon knows while it is primary; `require()` says whether it is."""

    def __init__(self, runtime: Runtime, store: Store, lease: Lease, config: MgmtdConfig) -> None:
        self.config = config  # with the cluster's hot keys laid over
        self._file_config = config
        self.configs: dict[NodeType, pb.ConfigRecord] = {}  # the newest of each type
        self.tags: dict[str, tuple[str, ...]] = {}
        self.config_states: dict[NodeId, pb.NodeConfigState] = {}
        self.store = store
        self.sessions = Sessions(timeout_s=config.session_timeout_s, since=0, since_us=0)
        self._runtime = runtime
        self._lease = lease
        self._state: State | None = None
        self._map: pb.RoutingMap | None = None  # of the state; built when first asked for
        self._queue: asyncio.Queue[tuple[Change, asyncio.Future[State]]] = asyncio.Queue(QUEUE_MAX)
        self._storing = asyncio.Lock()  # held while changes are stored, or everything is loaded
        self._changed = asyncio.Event()
        self._since = 0.0  # when this daemon became primary
        self._heard: dict[NodeId, float] = {}

    # Being primary

    @property
    def leads(self) -> bool:
        """True from `lead` to `step_down`, whatever the lease says."""
        return self._state is not None

    def require(self) -> State:
        """The newest state; NotPrimary unless this daemon surely is primary now."""
        if self._state is None or not self._lease.is_valid():
            primary = self._lease.primary
            raise NotPrimary(f"this mgmtd is not primary; the lease names node {primary.node} at {primary.address}")
        return self._state

    async def lead(self, own: Node) -> None:
        """Loads everything and takes over; the lease must be held."""
        async with self._storing:
            await self._load(own)

    async def _load(self, own: Node) -> None:
        cluster_id = await self.store.claim_cluster_id(self.config.cluster_id, self._runtime.uuid().hex()[:12])
        routing, incarnations = await self.store.load()
        self.take_configs(await self.store.newest_configs())
        self.tags = await self.store.all_tags()
        stored = State(routing, incarnations)
        state = rules.take_over(routing, incarnations, own)
        await self.store.save(stored, state)
        self._since = self._runtime.now()
        self._heard = {}
        self.config_states = {}
        self.sessions = Sessions(
            timeout_s=self.config.session_timeout_s, since=self._since, since_us=self._runtime.wall_us()
        )
        self._publish(state)
        metrics.TAKEOVERS.inc()
        _log.info("primary of cluster %s at routing version %d", cluster_id, state.routing.version)

    def step_down(self, reason: str) -> None:
        """Stops answering as primary; those who wait for a new map learn it."""
        if self._state is None:
            return
        _log.info("no longer primary: %s", reason)
        self._state = self._map = None
        self._lease.distrust()
        self._wake()

    def take_configs(self, configs: dict[NodeType, pb.ConfigRecord]) -> None:
        """The newest configurations as stored; this daemon's own hot keys are in force at once."""
        self.configs = configs
        own = configs.get(NodeType.MGMTD)
        if own is None:
            return
        try:
            self.config = overlay(self._file_config, own.toml, where="the cluster configuration").config
        except UserError as exc:
            _log.error("mgmtd configuration %d is not in force: %s; %s", own.version, exc, exc.hint)
        self.sessions.timeout_s = self.config.session_timeout_s

    # Changes

    async def apply(self, change: Change) -> State:
        """The state after `change`, stored and published. Raises what `change` raises, or NotPrimary."""
        self.require()
        done: asyncio.Future[State] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((change, done))
        except asyncio.QueueFull as exc:
            raise Busy(f"{QUEUE_MAX} changes of the cluster map are waiting") from exc
        return await done

    async def work(self) -> None:
        """The one task that changes the state; runs as long as the daemon."""
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                async with self._storing:
                    await self._carry_out(batch)
            finally:
                for _, done in batch:  # cancelled: nobody may wait for an answer that will not come
                    if not done.done():
                        done.cancel()

    async def _carry_out(self, batch: list[tuple[Change, asyncio.Future[State]]]) -> None:
        try:
            before = after = self.require()
            accepted: list[tuple[asyncio.Future[State], State]] = []
            for change, done in batch:
                try:
                    after = change(after)
                except ThreefsError as exc:
                    _settle(done, exc)
                else:
                    accepted.append((done, after))
            if _needs_save(before, after):
                await self._save(before, after)
            self.require()  # the lease may have lapsed, or this daemon stepped down, while the store was slow
        except NotPrimary as exc:
            for _, done in batch:
                _settle(done, exc)
            return
        self._publish(after)
        for done, state in accepted:
            _settle(done, state)

    async def _save(self, before: State, after: State) -> None:
        try:
            await self.store.save(before, after)
        except ThreefsError as exc:
            self.step_down(f"the map could not be stored: {exc}")
            raise NotPrimary(f"the map could not be stored: {exc}") from exc
        _log_changes(before, after)

    # The map

    def _publish(self, state: State) -> None:
        old, self._state = self._state, state
        if old is None or old.routing is not state.routing:
            self._map = None
            metrics.ROUTING_VERSION.set(state.routing.version)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def routing_map(self) -> pb.RoutingMap:
        """The message of the newest map; built once for all who ask."""
        state = self.require()
        if self._map is None:
            self._map = routing_to_proto(state.routing)
        return self._map

    async def wait_changed(self, seen: RoutingVersion, wait_s: float) -> bool:
        """True as soon as the map is not at version `seen`; False if it still is after `wait_s`."""
        if self.require().routing.version != seen:
            return True
        try:
            async with asyncio.timeout(wait_s):
                while self.require().routing.version == seen:
                    await self._changed.wait()
        except TimeoutError:
            return self.require().routing.version != seen
        return True

    # Silence

    async def fail(self, node: NodeId, *, gone: bool = False) -> None:
        """Declares a node dead, unless it has spoken meanwhile. `gone`: its address refuses connections."""

        def change(state: State) -> State:
            fenced = gone and any(other.id == node for other in self.fenced_nodes())
            return rules.fail(state, node) if fenced or node in self.silent_nodes() else state

        await self.apply(change)

    def heard(self, node: NodeId, at: float) -> None:
        self._heard[node] = at

    def forgive(self, seconds: float) -> None:
        """This daemon stood still for so long; whoever spoke meanwhile has not been heard."""
        _log.warning("stood still for %.2f s; nobody is declared dead for that time", seconds)
        self._since += seconds
        self._heard = {node: at + seconds for node, at in self._heard.items()}

    def silent_nodes(self) -> list[NodeId]:
        """Nodes that are to be declared dead now."""
        state, now = self.require(), self._runtime.now()
        newborn_over = now - self._since > self.config.newborn_s
        found = []
        for node in state.routing.nodes.values():
            if node.id in state.unheard:
                if newborn_over:
                    found.append(node.id)
                continue
            if self._silent_s(node) > self.config.failure_timeout_s:
                found.append(node.id)
        return found

    def fenced_nodes(self) -> list[Node]:
        """Nodes that have been silent for so long that they serve nothing, whether they live or not."""
        state = self.require()
        limit_s = FENCED_SHARE * self.config.failure_timeout_s
        nodes = state.routing.nodes.values()
        return [node for node in nodes if node.id not in state.unheard and self._silent_s(node) > limit_s]

    def _silent_s(self, node: Node) -> float:
        """Since its last heartbeat came; 0 for one that is not expected to send any."""
        if node.status not in (NodeStatus.CONNECTED, NodeStatus.CONNECTING):
            return 0.0
        return self._runtime.now() - self._heard.get(node.id, self._since)


def _settle(done: asyncio.Future[State], outcome: State | ThreefsError) -> None:
    if done.done():  # the caller has gone
        return
    if isinstance(outcome, State):
        done.set_result(outcome)
    else:
        done.set_exception(outcome)


def _needs_save(before: State, after: State) -> bool:
    if before.routing is not after.routing or before.incarnations.keys() != after.incarnations.keys():
        return True
    return any(life.id != before.incarnations[node].id for node, life in after.incarnations.items())


def _log_changes(before: State, after: State) -> None:
    for node in rules.delta(before.routing.nodes, after.routing.nodes).put.values():
        known = before.routing.nodes.get(node.id)
        if known is None or known.status is not node.status:
            _log.info("node %d at %s: %s", node.id, node.address, node.status.name)
    for chain in rules.delta(before.routing.chains, after.routing.chains).put.values():
        members = ", ".join(f"{t} {s.name}" for t, s in zip(chain.targets, chain.states, strict=True))
        _log.info("chain %d version %d: %s", chain.id, chain.version, members)
        metrics.CHAIN_CHANGES.inc()
