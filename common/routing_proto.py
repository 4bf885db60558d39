"""The cluster map on the wire: `common.routing` objects to and from the messages of proto/mgmtd.proto.

Used by mgmtd (which also stores these messages) and by the routing client. A message that breaks a rule of the
map raises Corrupt, so that nobody routes by it.
"""

from __future__ import annotations

from threefs.common.errors import Corrupt
from threefs.common.ids import ChainId, ChainTableId, ChainVersion, NodeId, RoutingVersion, TargetId
from threefs.common.routing import (
    Chain,
    ChainTable,
    LocalState,
    Node,
    NodeStatus,
    NodeType,
    PublicState,
    Routing,
    Target,
)
from threefs.proto import mgmtd_pb2 as pb


def node_to_proto(node: Node) -> pb.RoutingNode:
    return pb.RoutingNode(
        id=node.id,
        type=node.type,
        status=node.status,
        address=node.address,
        grpc_address=node.grpc_address,
        hostname=node.hostname,
        pid=node.pid,
        tags=node.tags,
        config_version=node.config_version,
    )


def node_from_proto(message: pb.RoutingNode) -> Node:
    try:
        return Node(
            NodeId(message.id),
            NodeType(message.type),
            NodeStatus(message.status),
            message.address,
            message.grpc_address,
            message.hostname,
            message.pid,
            tuple(message.tags),
            message.config_version,
        )
    except ValueError as exc:
        raise Corrupt(f"node {message.id} in the routing: {exc}") from exc


def target_to_proto(target: Target) -> pb.RoutingTarget:
    return pb.RoutingTarget(
        id=target.id,
        node=target.node,
        chain=target.chain,
        disk_index=target.disk_index,
        public=target.public,
        local=target.local,
        used_bytes=target.used_bytes,
        low_space=target.low_space,
    )


def target_from_proto(message: pb.RoutingTarget) -> Target:
    try:
        return Target(
            TargetId(message.id),
            NodeId(message.node),
            ChainId(message.chain),
            message.disk_index,
            PublicState(message.public),
            LocalState(message.local),
            message.used_bytes,
            message.low_space,
        )
    except ValueError as exc:
        raise Corrupt(f"target {message.id} in the routing: {exc}") from exc


def chain_to_proto(chain: Chain) -> pb.RoutingChain:
    return pb.RoutingChain(
        id=chain.id,
        version=chain.version,
        targets=chain.targets,
        states=list(chain.states),
        preferred=chain.preferred,
    )


def chain_from_proto(message: pb.RoutingChain) -> Chain:
    if len(message.targets) != len(message.states):
        raise Corrupt(f"chain {message.id} has {len(message.targets)} targets and {len(message.states)} states")
    try:
        return Chain(
            ChainId(message.id),
            ChainVersion(message.version),
            tuple(TargetId(target) for target in message.targets),
            tuple(PublicState(state) for state in message.states),
            tuple(TargetId(target) for target in message.preferred),
        )
    except ValueError as exc:
        raise Corrupt(f"chain {message.id} in the routing: {exc}") from exc


def table_to_proto(table: ChainTable) -> pb.RoutingTable:
    return pb.RoutingTable(id=table.id, version=table.version, chains=table.chains)


def table_from_proto(message: pb.RoutingTable) -> ChainTable:
    return ChainTable(ChainTableId(message.id), message.version, tuple(ChainId(chain) for chain in message.chains))


def routing_to_proto(routing: Routing) -> pb.RoutingMap:
    return pb.RoutingMap(
        version=routing.version,
        cluster_id=routing.cluster_id,
        nodes=[node_to_proto(node) for node in routing.nodes.values()],
        targets=[target_to_proto(target) for target in routing.targets.values()],
        chains=[chain_to_proto(chain) for chain in routing.chains.values()],
        tables=[table_to_proto(table) for table in routing.tables.values()],
    )


def routing_from_proto(message: pb.RoutingMap) -> Routing:
    nodes = [node_from_proto(node) for node in message.nodes]
    targets = [target_from_proto(target) for target in message.targets]
    chains = [chain_from_proto(chain) for chain in message.chains]
    tables = [table_from_proto(table) for table in message.tables]
    return Routing(
        RoutingVersion(message.version),
        message.cluster_id,
        {node.id: node for node in nodes},
        {target.id: target for target in targets},
        {chain.id: chain for chain in chains},
        {(table.id, table.version): table for table in tables},
    )
