"""The cluster map and what changes it: pure functions from (state, event) to a new state. Driven by `mgmtd.cluster`.

No await, clock or dice here. The one rule: every change of the map goes through `_finish`, which applies the chain
rules (`mgmtd.chain_state`) and gives the map a new version; `changes` then says which records have to be stored
before anybody may see it.

A chain is frozen while one of its targets' nodes is `unheard`: a primary that has just taken over knows nothing of
a daemon until that has spoken or has been silent for the newborn period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from threefs.common.errors import Conflict, NotFound
from threefs.common.ids import ChainId, ChainVersion, NodeId, RoutingVersion, TargetId
from threefs.common.routing import Chain, LocalState, Node, NodeStatus, NodeType, PublicState, Routing, Target
from threefs.mgmtd import chain_state

K = TypeVar("K")
V = TypeVar("V")

_ASSUMED_LOCAL = {  # after a takeover, until the daemon has spoken: what changes nothing in the table
    PublicState.SERVING: LocalState.UPTODATE,
    PublicState.SYNCING: LocalState.ONLINE,
    PublicState.WAITING: LocalState.UPTODATE,
    PublicState.LASTSRV: LocalState.OFFLINE,
    PublicState.OFFLINE: LocalState.OFFLINE,
}


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a daemon. `number` is its newest heartbeat's; 0 after a takeover."""

    id: bytes
    started_us: int
    release: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a daemon says of one target that it hosts."""

    target: TargetId
    local: LocalState
    chain_version: ChainVersion
    disk_index: int = 0
    used_bytes: int = 0
    low_space: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """All that the primary knows. Only `routing` and `incarnations` (without numbers) are stored."""

    routing: Routing
    incarnations: dict[NodeId, Incarnation] = field(default_factory=dict)
    unheard: frozenset[NodeId] = frozenset()  # not heard of since the takeover, nor given up
    reports: dict[NodeId, tuple[Report, ...]] = field(default_factory=dict)  # the newest of each node, all targets


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """Records of one kind to store and to delete."""

    put: dict[K, V]
    gone: tuple[K, ...]

    def __bool__(self) -> bool:
        return bool(self.put or self.gone)


def delta(old: Mapping[K, V], new: Mapping[K, V]) -> Delta[K, V]:
    put = {key: value for key, value in new.items() if key not in old or old[key] != value}
    return Delta(put, tuple(key for key in old if key not in new))


# Events of daemons


def take_over(routing: Routing, incarnations: Mapping[NodeId, Incarnation], own: Node) -> State:
    """What a new primary starts from: the stored map, with itself as primary and all daemons unheard."""
    nodes = {
        node.id: replace(node, status=NodeStatus.CONNECTING) if node.status is NodeStatus.PRIMARY else node
        for node in routing.nodes.values()
    }
    stored = nodes.get(own.id, own)
    nodes[own.id] = replace(own, status=NodeStatus.PRIMARY, tags=stored.tags, config_version=stored.config_version)
    targets = {target.id: replace(target, local=_ASSUMED_LOCAL[target.public]) for target in routing.targets.values()}
    unheard = frozenset(node.id for node in nodes.values() if node.type in (NodeType.META, NodeType.STORAGE))
    state = State(routing, dict(incarnations), unheard)
    return _finish(state, replace(routing, nodes=nodes, targets=targets), always=True)


def register(state: State, node: Node, life: Incarnation) -> State:
    """A daemon starts, or repeats itself. Its targets count as OFFLINE until it reports them."""
    known, before = state.routing.nodes.get(node.id), state.incarnations.get(node.id)
    if known is not None and known.type is not node.type:
        raise Conflict(
            f"node {node.id} is registered as {known.type.name}, not {node.type.name}: give this daemon another node_id"
        )
    if known is not None and known.status is NodeStatus.PRIMARY:
        raise Conflict(f"node {node.id} is the primary mgmtd at {known.address}: give this daemon another node_id")
    lives = known is not None and known.status is NodeStatus.CONNECTED and node.id not in state.unheard
    if before is not None and before.id != life.id and before.started_us > life.started_us and lives:
        assert known is not None
        raise Conflict(f"node {node.id} was started again at {known.address} (pid {known.pid}): this one is outdated")
    same = before is not None and before.id == life.id
    status = NodeStatus.CONNECTING
    if known is not None:
        status = known.status if same or known.status is NodeStatus.DISABLED else status
        node = replace(node, tags=known.tags, config_version=known.config_version)
    routing = _with_node(state.routing, replace(node, status=status))
    if same:
        return _finish(state, routing)
    state = replace(
        state,
        incarnations={**state.incarnations, node.id: life},
        unheard=state.unheard - {node.id},
        reports={**state.reports, node.id: ()},
    )
    return _finish(state, _with_local_offline(routing, node.id))


def heartbeat(
    state: State, node_id: NodeId, life: bytes, number: int, reports: Sequence[Report], config_version: int
) -> State:
    """A daemon lives and says how all its targets are."""
    node, known = state.routing.nodes.get(node_id), state.incarnations.get(node_id)
    if node is None or known is None:
        raise NotFound(f"node {node_id} is not registered")
    if known.id != life:
        raise Conflict(f"node {node_id} runs in another incarnation at {node.address} (pid {node.pid})")
    if number < known.number:
        raise Conflict(f"heartbeat {number} of node {node_id} came after {known.number}")
    if number == known.number:
        return state  # sent again, because its answer was lost
    first = node_id in state.unheard
    state = replace(
        state,
        incarnations={**state.incarnations, node_id: replace(known, number=number)},
        unheard=state.unheard - {node_id},
        reports={**state.reports, node_id: tuple(reports)},
    )
    status = NodeStatus.DISABLED if node.status is NodeStatus.DISABLED else NodeStatus.CONNECTED
    routing = _with_node(state.routing, replace(node, status=status, config_version=config_version))
    if status is NodeStatus.DISABLED:
        routing = _with_local_offline(routing, node_id)
    else:
        routing = _with_reports(routing, node_id, reports)
    if not first and (routing.nodes, routing.targets) == (state.routing.nodes, state.routing.targets):
        return state  # nearly every heartbeat: spare the walk over all chains
    return _finish(state, routing)


def fail(state: State, node_id: NodeId) -> State:
    """A daemon has been silent for the failure timeout (or, after a takeover, for the newborn period)."""
    node = state.routing.nodes[node_id]
    state = replace(state, unheard=state.unheard - {node_id})
    if node.status is not NodeStatus.DISABLED:
        node = replace(node, status=NodeStatus.FAILED)
    return _finish(state, _with_local_offline(_with_node(state.routing, node), node_id))


def publish_usage(state: State) -> State:
    """Puts the reported usage of the targets into the map (rarely: each such change is a new version)."""
    targets = dict(state.routing.targets)
    for node_id, reports in state.reports.items():
        for report in reports:
            target = targets.get(report.target)
            if target is not None and target.node == node_id:
                targets[target.id] = replace(target, used_bytes=report.used_bytes, low_space=report.low_space)
    return _finish(state, replace(state.routing, targets=targets))


def orphans(state: State) -> list[tuple[NodeId, Report]]:
    """Targets that daemons report and no chain has."""
    return [
        (node_id, report)
        for node_id, reports in state.reports.items()
        for report in reports
        if (target := state.routing.targets.get(report.target)) is None or target.node != node_id
    ]


# Helpers that `mgmtd.admin` shares


def with_chain(state: State, chain: Chain) -> State:
    return _finish(state, replace(state.routing, chains={**state.routing.chains, chain.id: chain}))


def with_node(state: State, node: Node) -> State:
    return _finish(state, _with_node(state.routing, node))


def with_routing(state: State, routing: Routing) -> State:
    return _finish(state, routing)


def with_target_offline(routing: Routing, target: TargetId) -> Routing:
    """Forgets what was reported of a target: it counts as OFFLINE until a report under its chain's newest version."""
    return replace(
        routing, targets={**routing.targets, target: replace(routing.targets[target], local=LocalState.OFFLINE)}
    )


def node_or_raise(state: State, node_id: NodeId) -> Node:
    node = state.routing.nodes.get(node_id)
    if node is None:
        raise NotFound(f"there is no node {node_id}; `3fs node list` shows all")
    return node


def chain_or_raise(state: State, chain_id: ChainId) -> Chain:
    chain = state.routing.chains.get(chain_id)
    if chain is None:
        raise NotFound(f"there is no chain {chain_id}; `3fs chain list` shows all")
    return chain


# The map's next version


def _with_node(routing: Routing, node: Node) -> Routing:
    return replace(routing, nodes={**routing.nodes, node.id: node})


def _with_local_offline(routing: Routing, node_id: NodeId) -> Routing:
    targets = {
        target.id: replace(target, local=LocalState.OFFLINE) if target.node == node_id else target
        for target in routing.targets.values()
    }
    return replace(routing, targets=targets)


def _with_reports(routing: Routing, node_id: NodeId, reports: Sequence[Report]) -> Routing:
    """Takes the local states over. A target that the daemon does not name is OFFLINE; a report that was made under
    an older version of the chain is ignored, since the chain has changed for a reason that it does not know."""
    told = {report.target: report for report in reports}
    targets = dict(routing.targets)
    for target in routing.targets.values():
        if target.node != node_id:
            continue
        report = told.get(target.id)
        if report is None:
            targets[target.id] = replace(target, local=LocalState.OFFLINE)
        elif report.chain_version >= routing.chains[target.chain].version:
            targets[target.id] = replace(target, local=report.local, disk_index=report.disk_index)
    return replace(routing, targets=targets)


def _finish(state: State, routing: Routing, *, always: bool = False) -> State:
    """Chain rules, public states of targets, and a new version if anything (or `always`) differs."""
    routing = replace(routing, chains=_next_chains(routing, state.unheard))
    routing = replace(routing, targets=_with_public_states(routing))
    old = state.routing
    unchanged = (routing.nodes, routing.targets, routing.chains, routing.tables) == (
        old.nodes,
        old.targets,
        old.chains,
        old.tables,
    )
    if unchanged and not always:
        return state
    return replace(state, routing=replace(routing, version=RoutingVersion(old.version + 1)))


def _next_chains(routing: Routing, unheard: frozenset[NodeId]) -> dict[ChainId, Chain]:
    def answers(target: TargetId) -> bool:
        return routing.nodes[routing.targets[target].node].status is NodeStatus.CONNECTED

    chains = dict(routing.chains)
    for chain in routing.chains.values():
        if any(routing.targets[target].node in unheard for target in chain.targets):
            continue
        local = {target: routing.targets[target].local for target in chain.targets}
        chains[chain.id] = chain_state.next_chain(chain, local, answers)
        chain_state.check(chains[chain.id])
    return chains


def _with_public_states(routing: Routing) -> dict[TargetId, Target]:
    targets = dict(routing.targets)
    for chain in routing.chains.values():
        for target_id, public in zip(chain.targets, chain.states, strict=True):
            target = targets[target_id]
            if target.public is not public:
                targets[target_id] = replace(target, public=public)
    return targets
