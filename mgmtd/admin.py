"""What administrators change: nodes, chains and chain tables. Pure, like `mgmtd.state`, whose rules apply after each.

Every function gives the state unchanged if the wish is fulfilled already, so that a retry is harmless; those that
would act twice take the chain version that the caller looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from threefs.common.errors import BadRequest, Conflict
from threefs.common.ids import ChainId, ChainTableId, ChainVersion, NodeId, TargetId
from threefs.common.routing import Chain, ChainTable, LocalState, NodeStatus, NodeType, PublicState, Routing, Target
from threefs.mgmtd import chain_state
from threefs.mgmtd.state import (
    State,
    chain_or_raise,
    node_or_raise,
    with_chain,
    with_node,
    with_routing,
    with_target_offline,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target is."""

    target: TargetId
    node: NodeId
    disk_index: int


# Nodes


def enable_node(state: State, node_id: NodeId) -> State:
    node = node_or_raise(state, node_id)
    if node.status is not NodeStatus.DISABLED:
        return state
    return with_node(state, replace(node, status=NodeStatus.CONNECTING))


def disable_node(state: State, node_id: NodeId) -> State:
    """The node's targets count as OFFLINE from now on, whatever it reports."""
    node = node_or_raise(state, node_id)
    if node.type is NodeType.MGMTD:
        raise BadRequest(f"node {node_id} is a mgmtd: stop it instead of disabling it")
    routing = replace(state.routing, nodes={**state.routing.nodes, node_id: replace(node, status=NodeStatus.DISABLED)})
    for target in state.routing.targets.values():
        if target.node == node_id:
            routing = with_target_offline(routing, target.id)
    return with_routing(state, routing)


def unregister_node(state: State, node_id: NodeId) -> State:
    """Forgets a node that does not run and that no chain needs."""
    node = state.routing.nodes.get(node_id)
    if node is None:
        return state
    if node.status in (NodeStatus.CONNECTED, NodeStatus.PRIMARY):
        raise Conflict(f"node {node_id} is {node.status.name}: stop its daemon first")
    used = [target.chain for target in state.routing.targets.values() if target.node == node_id]
    if used:
        raise Conflict(f"node {node_id} has targets in chains {used[:5]}: move or remove them first")
    state = replace(
        state,
        incarnations={key: value for key, value in state.incarnations.items() if key != node_id},
        unheard=state.unheard - {node_id},
        reports={key: value for key, value in state.reports.items() if key != node_id},
    )
    nodes = {key: value for key, value in state.routing.nodes.items() if key != node_id}
    return with_routing(state, replace(state.routing, nodes=nodes))


def set_node_tags(state: State, node_id: NodeId, tags: Sequence[str]) -> State:
    return with_node(state, replace(node_or_raise(state, node_id), tags=tuple(tags)))


# Chains


def set_chains(state: State, settings: Sequence[tuple[ChainId, Sequence[Place]]]) -> State:
    """New chains of new, empty targets, which therefore all serve."""
    routing = state.routing
    for chain_id, places in settings:
        routing = _with_new_chain(state, routing, chain_id, places)
    return with_routing(state, routing)


def _with_new_chain(state: State, routing: Routing, chain_id: ChainId, places: Sequence[Place]) -> Routing:
    targets = tuple(place.target for place in places)
    existing = routing.chains.get(chain_id)
    if existing is not None:
        if sorted(existing.targets) == sorted(targets):
            return routing
        raise Conflict(f"chain {chain_id} exists with targets {list(existing.targets)}: change it with update-chain")
    if not targets or not chain_id:
        raise BadRequest(f"chain {chain_id} has {len(targets)} targets: give an id above 0 and at least one target")
    if len(set(targets)) < len(targets):
        raise BadRequest(f"chain {chain_id} names a target twice: {list(targets)}")
    new = {
        place.target: _new_target(state, routing, chain_id, place, PublicState.SERVING, LocalState.UPTODATE)
        for place in places
    }
    chain = Chain(chain_id, ChainVersion(1), targets, (PublicState.SERVING,) * len(targets), targets)
    return replace(routing, targets={**routing.targets, **new}, chains={**routing.chains, chain_id: chain})


def _new_target(
    state: State, routing: Routing, chain_id: ChainId, place: Place, public: PublicState, local: LocalState
) -> Target:
    node = node_or_raise(state, place.node)
    if node.type is not NodeType.STORAGE:
        raise BadRequest(f"target {place.target} is placed on node {place.node}, which is a {node.type.name} node")
    taken = routing.targets.get(place.target)
    if taken is not None:
        raise Conflict(f"target {place.target} belongs to chain {taken.chain} already")
    return Target(place.target, place.node, chain_id, place.disk_index, public, local)


def set_chain_table(state: State, table_id: ChainTableId, chains: Sequence[ChainId]) -> State:
    """A new version of the table, unless the newest is equal."""
    if not table_id or not chains:
        raise BadRequest(f"chain table {table_id} with {len(chains)} chains: give an id above 0 and at least one chain")
    if len(set(chains)) < len(chains):
        raise BadRequest(f"chain table {table_id} names a chain twice")
    for chain_id in chains:
        chain_or_raise(state, chain_id)
    newest = newest_table_version(state, table_id)
    if newest and state.routing.tables[table_id, newest].chains == tuple(chains):
        return state
    table = ChainTable(table_id, newest + 1, tuple(chains))
    tables = {**state.routing.tables, (table_id, table.version): table}
    return with_routing(state, replace(state.routing, tables=tables))


def newest_table_version(state: State, table_id: ChainTableId) -> int:
    return max((version for table, version in state.routing.tables if table == table_id), default=0)


def add_target(state: State, chain_id: ChainId, place: Place) -> State:
    chain = chain_or_raise(state, chain_id)
    if place.target in chain.targets:
        return state
    target = _new_target(state, state.routing, chain_id, place, PublicState.OFFLINE, LocalState.OFFLINE)
    chains = {**state.routing.chains, chain_id: chain_state.add_target(chain, place.target)}
    targets = {**state.routing.targets, target.id: target}
    return with_routing(state, replace(state.routing, chains=chains, targets=targets))


def remove_target(state: State, chain_id: ChainId, target_id: TargetId) -> State:
    chain = chain_or_raise(state, chain_id)
    if target_id not in chain.targets:
        return state
    chains = {**state.routing.chains, chain_id: chain_state.remove_target(chain, target_id)}
    targets = {key: value for key, value in state.routing.targets.items() if key != target_id}
    return with_routing(state, replace(state.routing, chains=chains, targets=targets))


def rotate_last_serving(state: State, chain_id: ChainId, seen: ChainVersion) -> State:
    chain = _chain_as_seen(state, chain_id, seen)
    routing = with_target_offline(state.routing, chain.targets[0])
    chains = {**routing.chains, chain_id: chain_state.rotate_last_serving(chain)}
    return with_routing(state, replace(routing, chains=chains))


def set_preferred_order(state: State, chain_id: ChainId, targets: Sequence[TargetId]) -> State:
    return with_chain(state, chain_state.set_preferred(chain_or_raise(state, chain_id), targets))


def rotate_as_preferred(state: State, chain_id: ChainId, seen: ChainVersion) -> State:
    chain = _chain_as_seen(state, chain_id, seen)
    misplaced = chain_state.next_misplaced(chain)
    if misplaced is None:
        return state
    routing = with_target_offline(state.routing, misplaced)
    chains = {**routing.chains, chain_id: chain_state.push_offline(chain, misplaced)}
    return with_routing(state, replace(routing, chains=chains))


def _chain_as_seen(state: State, chain_id: ChainId, seen: ChainVersion) -> Chain:
    chain = chain_or_raise(state, chain_id)
    if seen and seen != chain.version:
        raise Conflict(f"chain {chain_id} is at version {chain.version}, not {seen}: look again, then decide")
    return chain
