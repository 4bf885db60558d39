"""The RPCs of mgmtd: messages to calls of the pure functions and back. Carriers serve this class (`common.net`).

The one rule: nothing is answered but by a daemon that surely is primary, except who is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from threefs.common.errors import BadRequest, UserError
from threefs.common.ids import ChainId, ChainTableId, ChainVersion, NodeId, RoutingVersion, TargetId
from threefs.common.net.interface import Request
from threefs.common.routing import LocalState, NodeType
from threefs.common.routing_proto import chain_to_proto, node_from_proto
from threefs.common.runtime.interface import Runtime
from threefs.mgmtd import admin, metrics
from threefs.mgmtd import state as rules
from threefs.mgmtd.cluster import Cluster
from threefs.mgmtd.lease import Lease
from threefs.mgmtd.state import Incarnation, Report, State
from threefs.proto import mgmtd_pb2 as pb

_log = logging.getLogger(__name__)

WAIT_S_MAX = 30.0  # longest long poll
CONFIG_BYTES_MAX = 64 << 10  # below every store's limit for a value

# Raises UserError if a configuration text is not fit for the daemons of a type.
Validator = Callable[[str], None]


class MgmtdService:
    def __init__(
        self, runtime: Runtime, cluster: Cluster, lease: Lease, validators: Mapping[NodeType, Validator]
    ) -> None:
        self._runtime = runtime
        self._cluster = cluster
        self._lease = lease
        self._validators = validators

    async def get_primary(self, message: pb.GetPrimaryRequest, request: Request) -> pb.GetPrimaryReply:
        primary = self._lease.primary
        return pb.GetPrimaryReply(node=primary.node, address=primary.address)

    async def get_routing(self, message: pb.GetRoutingRequest, request: Request) -> pb.GetRoutingReply:
        seen = RoutingVersion(message.seen_version)
        changed = await self._cluster.wait_changed(seen, min(message.wait_s, WAIT_S_MAX))
        version = self._cluster.require().routing.version
        return pb.GetRoutingReply(version=version, routing=self._cluster.routing_map() if changed else None)

    # Daemons

    async def register_node(self, message: pb.RegisterNodeRequest, request: Request) -> pb.RegisterNodeReply:
        cluster_id = self._cluster.require().routing.cluster_id
        if message.cluster_id and message.cluster_id != cluster_id:
            raise BadRequest(
                f"node {message.node.id} belongs to cluster {message.cluster_id}, this is cluster {cluster_id}: "
                "give it the right mgmtd address, or another data folder"
            )
        if not message.node.id or len(message.incarnation) != 16:
            raise BadRequest(f"node id {message.node.id}, incarnation of {len(message.incarnation)} bytes")
        node = node_from_proto(message.node)
        life = Incarnation(message.incarnation, message.started_us, message.release)
        now = self._runtime.now()
        await self._cluster.apply(lambda state: rules.register(state, node, life))
        self._cluster.heard(node.id, now)
        reply = pb.RegisterNodeReply(cluster_id=cluster_id, timings=self._timings())
        if (config := self._newer_config(node.type, 0)) is not None:
            reply.config.CopyFrom(config)
        return reply

    async def heartbeat(self, message: pb.HeartbeatRequest, request: Request) -> pb.HeartbeatReply:
        now = self._runtime.now()
        node_id, reports = NodeId(message.node), [_report(report) for report in message.targets]

        def change(state: State) -> State:
            return rules.heartbeat(state, node_id, message.incarnation, message.number, reports, message.config_version)

        state = await self._cluster.apply(change)
        self._cluster.heard(node_id, now)
        metrics.HEARTBEATS.inc()
        self._note_config(node_id, message)
        reply = pb.HeartbeatReply(timings=self._timings(), routing_version=state.routing.version)
        config = self._newer_config(state.routing.nodes[node_id].type, message.config_version)
        if config is not None:
            reply.config.CopyFrom(config)
        return reply

    def _timings(self) -> pb.Timings:
        config = self._cluster.config
        return pb.Timings(heartbeat_interval_s=config.heartbeat_interval_s, failure_timeout_s=config.failure_timeout_s)

    def _newer_config(self, node_type: NodeType, seen: int) -> pb.ConfigRecord | None:
        config = self._cluster.configs.get(node_type)
        return config if config is not None and config.version > seen else None

    def _note_config(self, node_id: NodeId, message: pb.HeartbeatRequest) -> None:
        found = pb.NodeConfigState(
            node=node_id,
            version=message.config_version,
            status=message.config_status,
            message=message.config_message,
        )
        if found.status == pb.CONFIG_FAILED and self._cluster.config_states.get(node_id) != found:
            _log.error("node %d refuses configuration %d: %s", node_id, found.version, found.message)
        self._cluster.config_states[node_id] = found

    # Nodes

    async def unregister_node(self, message: pb.UnregisterNodeRequest, request: Request) -> pb.UnregisterNodeReply:
        await self._cluster.apply(lambda state: admin.unregister_node(state, NodeId(message.node)))
        return pb.UnregisterNodeReply()

    async def enable_node(self, message: pb.EnableNodeRequest, request: Request) -> pb.EnableNodeReply:
        node, now = NodeId(message.node), self._runtime.now()
        await self._cluster.apply(lambda state: admin.enable_node(state, node))
        self._cluster.heard(node, now)  # it has the failure timeout to speak
        return pb.EnableNodeReply()

    async def disable_node(self, message: pb.DisableNodeRequest, request: Request) -> pb.DisableNodeReply:
        await self._cluster.apply(lambda state: admin.disable_node(state, NodeId(message.node)))
        return pb.DisableNodeReply()

    async def set_node_tags(self, message: pb.SetNodeTagsRequest, request: Request) -> pb.SetNodeTagsReply:
        await self._cluster.apply(lambda state: admin.set_node_tags(state, NodeId(message.node), message.tags))
        return pb.SetNodeTagsReply()

    async def set_universal_tags(
        self, message: pb.SetUniversalTagsRequest, request: Request
    ) -> pb.SetUniversalTagsReply:
        self._cluster.require()
        if not message.name:
            raise BadRequest("tags need a name that they belong to")
        await self._cluster.store.put_tags(message.name, message.tags)
        self._cluster.tags = await self._cluster.store.all_tags()
        return pb.SetUniversalTagsReply()

    async def get_universal_tags(
        self, message: pb.GetUniversalTagsRequest, request: Request
    ) -> pb.GetUniversalTagsReply:
        self._cluster.require()
        return pb.GetUniversalTagsReply(tags=self._cluster.tags.get(message.name, ()))

    # Configuration

    async def set_cluster_config(
        self, message: pb.SetClusterConfigRequest, request: Request
    ) -> pb.SetClusterConfigReply:
        self._cluster.require()
        node_type = _node_type(message.node_type)
        if len(message.toml) > CONFIG_BYTES_MAX:
            raise BadRequest(f"a configuration has at most {CONFIG_BYTES_MAX} bytes, not {len(message.toml)}")
        try:
            self._validators[node_type](message.toml)
        except UserError as exc:
            raise BadRequest(f"{exc}; {exc.hint}") from exc
        record = pb.ConfigRecord(
            node_type=node_type,
            toml=message.toml,
            description=message.description,
            created_us=self._runtime.wall_us(),
        )
        version = await self._cluster.store.put_config(record)
        self._cluster.take_configs(await self._cluster.store.newest_configs())
        return pb.SetClusterConfigReply(version=version)

    async def get_cluster_config(
        self, message: pb.GetClusterConfigRequest, request: Request
    ) -> pb.GetClusterConfigReply:
        self._cluster.require()
        record = await self._cluster.store.get_config(_node_type(message.node_type), message.version)
        return pb.GetClusterConfigReply(config=record)

    async def get_config_versions(
        self, message: pb.GetConfigVersionsRequest, request: Request
    ) -> pb.GetConfigVersionsReply:
        self._cluster.require()
        reply = pb.GetConfigVersionsReply(
            configs=self._cluster.configs.values(), nodes=self._cluster.config_states.values()
        )
        for record in reply.configs:
            record.toml = ""
        return reply

    # Chains

    async def set_chains(self, message: pb.SetChainsRequest, request: Request) -> pb.SetChainsReply:
        settings = [(ChainId(chain.chain), [_place(place) for place in chain.targets]) for chain in message.chains]
        await self._cluster.apply(lambda state: admin.set_chains(state, settings))
        return pb.SetChainsReply()

    async def set_chain_table(self, message: pb.SetChainTableRequest, request: Request) -> pb.SetChainTableReply:
        table, chains = ChainTableId(message.table), [ChainId(chain) for chain in message.chains]
        state = await self._cluster.apply(lambda state: admin.set_chain_table(state, table, chains))
        return pb.SetChainTableReply(version=admin.newest_table_version(state, table))

    async def update_chain(self, message: pb.UpdateChainRequest, request: Request) -> pb.UpdateChainReply:
        chain, place = ChainId(message.chain), _place(message.target)
        if message.mode == pb.UpdateChainRequest.ADD:
            state = await self._cluster.apply(lambda state: admin.add_target(state, chain, place))
        else:
            state = await self._cluster.apply(lambda state: admin.remove_target(state, chain, place.target))
        return pb.UpdateChainReply(chain=_chain(state, chain))

    async def rotate_last_serving(
        self, message: pb.RotateLastServingRequest, request: Request
    ) -> pb.RotateLastServingReply:
        chain, seen = ChainId(message.chain), ChainVersion(message.chain_version)
        state = await self._cluster.apply(lambda state: admin.rotate_last_serving(state, chain, seen))
        return pb.RotateLastServingReply(chain=_chain(state, chain))

    async def set_preferred_order(
        self, message: pb.SetPreferredOrderRequest, request: Request
    ) -> pb.SetPreferredOrderReply:
        chain, targets = ChainId(message.chain), [TargetId(target) for target in message.targets]
        state = await self._cluster.apply(lambda state: admin.set_preferred_order(state, chain, targets))
        return pb.SetPreferredOrderReply(chain=_chain(state, chain))

    async def rotate_as_preferred(
        self, message: pb.RotateAsPreferredRequest, request: Request
    ) -> pb.RotateAsPreferredReply:
        chain, seen = ChainId(message.chain), ChainVersion(message.chain_version)
        state = await self._cluster.apply(lambda state: admin.rotate_as_preferred(state, chain, seen))
        return pb.RotateAsPreferredReply(chain=_chain(state, chain))

    async def list_orphan_targets(
        self, message: pb.ListOrphanTargetsRequest, request: Request
    ) -> pb.ListOrphanTargetsReply:
        found = [
            pb.OrphanTarget(
                target=report.target,
                node=node,
                disk_index=report.disk_index,
                used_bytes=report.used_bytes,
                local=report.local,
            )
            for node, report in rules.orphans(self._cluster.require())
        ]
        return pb.ListOrphanTargetsReply(targets=found)

    # Client sessions

    async def extend_client_session(
        self, message: pb.ExtendClientSessionRequest, request: Request
    ) -> pb.ExtendClientSessionReply:
        self._cluster.require()
        session = message.session
        session.tags[:] = self._cluster.tags.get(session.hostname, ())
        self._cluster.sessions.extend(session, now=self._runtime.now(), now_us=self._runtime.wall_us())
        reply = pb.ExtendClientSessionReply(extend_interval_s=self._cluster.config.session_extend_s)
        config = self._newer_config(_node_type(session.node_type), session.config_version)
        if config is not None:
            reply.config.CopyFrom(config)
        return reply

    async def end_client_session(
        self, message: pb.EndClientSessionRequest, request: Request
    ) -> pb.EndClientSessionReply:
        self._cluster.require()
        self._cluster.sessions.end(message.client)
        return pb.EndClientSessionReply()

    async def list_client_sessions(
        self, message: pb.ListClientSessionsRequest, request: Request
    ) -> pb.ListClientSessionsReply:
        self._cluster.require()
        sessions = self._cluster.sessions
        return pb.ListClientSessionsReply(
            sessions=sessions.all(),
            since_us=sessions.since_us,
            session_timeout_s=sessions.timeout_s,
            complete=sessions.complete(self._runtime.now()),
        )

    async def get_client_session(
        self, message: pb.GetClientSessionRequest, request: Request
    ) -> pb.GetClientSessionReply:
        self._cluster.require()
        sessions = self._cluster.sessions
        return pb.GetClientSessionReply(
            session=sessions.get(message.client), complete=sessions.complete(self._runtime.now())
        )


def _node_type(number: int) -> NodeType:
    try:
        return NodeType(number)
    except ValueError as exc:
        known = ", ".join(f"{t.value} {t.name}" for t in NodeType)
        raise BadRequest(f"node type {number} is unknown; known are {known}") from exc


def _report(message: pb.TargetReport) -> Report:
    try:
        local = LocalState(message.local)
    except ValueError as exc:
        raise BadRequest(f"target {message.target} is reported in local state {message.local}: no such state") from exc
    return Report(
        TargetId(message.target),
        local,
        ChainVersion(message.chain_version),
        message.disk_index,
        message.used_bytes,
        message.low_space,
    )


def _place(message: pb.TargetPlace) -> admin.Place:
    return admin.Place(TargetId(message.target), NodeId(message.node), message.disk_index)


def _chain(state: State, chain: ChainId) -> pb.RoutingChain:
    return chain_to_proto(rules.chain_or_raise(state, chain))
