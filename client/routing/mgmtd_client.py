"""Every call to mgmtd, typed. Used by the routing client, the agents and the command line.

The one rule: a call goes to the primary. Several mgmtds share one store and any may die, so a call that meets
another one (NotPrimary), silence or a broken connection moves on, until its deadline. Calls are idempotent: each
may be carried out twice without harm (see the comments in mgmtd.proto on expected versions).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from threefs.common.errors import NotPrimary, ThreefsError, Timeout, TransientError
from threefs.common.ids import ChainId, ChainTableId, ChainVersion, ClientId, NodeId, RoutingVersion, TargetId
from threefs.common.net.interface import Transport
from threefs.common.net.service import Retry, invoke
from threefs.common.routing import Chain, NodeType, Routing
from threefs.common.routing_proto import chain_from_proto, routing_from_proto
from threefs.common.runtime.interface import Runtime
from threefs.proto import mgmtd_pb2 as pb
from threefs.proto.mgmtd_rpc import Mgmtd
from threefs.proto.rpc import Method

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)
_log = logging.getLogger(__name__)

ATTEMPT_S = 1.0  # one attempt at one mgmtd; another may be primary by now
HOPS_MAX = 3  # NotPrimary answers followed in a row before a pause


class MgmtdClient:
    """Calls to whichever of `addresses` is primary. Cheap; one for a process is enough."""

    def __init__(
        self, runtime: Runtime, transport: Transport, addresses: Sequence[str], *, timeout_s: float = 10.0
    ) -> None:
        assert addresses, "no mgmtd address given"
        self.runtime = runtime
        self._transport = transport
        self._addresses = tuple(addresses)
        self._current = addresses[0]
        self._timeout_s = timeout_s

    async def call(
        self,
        method: Method[RequestT, ReplyT],
        message: RequestT,
        *,
        timeout_s: float | None = None,
        attempt_s: float = ATTEMPT_S,
    ) -> ReplyT:
        """One RPC at the primary, wherever it is; raises the last error once `timeout_s` is over."""
        retry = Retry(self.runtime, self._timeout_s if timeout_s is None else timeout_s, first_s=0.02, most_s=0.5)
        hops = 0
        while True:
            address = self._current
            limit_s = max(min(attempt_s, retry.left_s), 0.001)
            try:
                return await invoke(self._transport, address, method, message, timeout_s=limit_s)
            except NotPrimary as exc:
                hops += 1
                if await self._follow(address) and hops % HOPS_MAX:
                    continue
                await self._pause(retry, exc)
            except TransientError as exc:
                self._move_on(address)
                await self._pause(retry, exc)

    async def _pause(self, retry: Retry, error: ThreefsError) -> None:
        if retry.left_s <= 0:
            where = ", ".join(self._addresses)
            raise Timeout(f"no primary mgmtd answered at {where}: {error}; is mgmtd running?") from error
        await retry.pause(error)

    async def _follow(self, address: str) -> bool:
        """Asks the one that is not primary who is; True if it named another that is worth trying at once."""
        try:
            reply = await invoke(
                self._transport, address, Mgmtd.GET_PRIMARY, pb.GetPrimaryRequest(), timeout_s=ATTEMPT_S
            )
        except ThreefsError as exc:
            _log.debug("mgmtd at %s does not say who is primary: %s", address, exc)
            reply = pb.GetPrimaryReply()
        if reply.address and reply.address != address:
            self._current = reply.address
            return True
        self._move_on(address)
        return False

    def _move_on(self, failed: str) -> None:
        """Next configured address after the one that failed (unless another call has moved on already)."""
        if self._current != failed:
            return
        index = self._addresses.index(failed) if failed in self._addresses else -1
        self._current = self._addresses[(index + 1) % len(self._addresses)]

    # The map

    async def get_routing(
        self, seen: RoutingVersion, *, wait_s: float = 0.0, timeout_s: float | None = None
    ) -> Routing | None:
        """The map if it is not at version `seen` (0: any); None if it still is after `wait_s`."""
        request = pb.GetRoutingRequest(seen_version=seen, wait_s=wait_s)
        reply = await self.call(Mgmtd.GET_ROUTING, request, timeout_s=timeout_s, attempt_s=ATTEMPT_S + wait_s)
        return routing_from_proto(reply.routing) if reply.HasField("routing") else None

    # Nodes

    async def unregister_node(self, node: NodeId) -> None:
        """Forgets a node that is down and has no target in a chain."""
        await self.call(Mgmtd.UNREGISTER_NODE, pb.UnregisterNodeRequest(node=node))

    async def enable_node(self, node: NodeId) -> None:
        await self.call(Mgmtd.ENABLE_NODE, pb.EnableNodeRequest(node=node))

    async def disable_node(self, node: NodeId) -> None:
        """Takes a node out of service: its targets leave their chains' serving part, as if it were down."""
        await self.call(Mgmtd.DISABLE_NODE, pb.DisableNodeRequest(node=node))

    async def set_node_tags(self, node: NodeId, tags: Iterable[str]) -> None:
        await self.call(Mgmtd.SET_NODE_TAGS, pb.SetNodeTagsRequest(node=node, tags=tags))

    async def set_universal_tags(self, name: str, tags: Iterable[str]) -> None:
        await self.call(Mgmtd.SET_UNIVERSAL_TAGS, pb.SetUniversalTagsRequest(name=name, tags=tags))

    async def get_universal_tags(self, name: str) -> list[str]:
        return list((await self.call(Mgmtd.GET_UNIVERSAL_TAGS, pb.GetUniversalTagsRequest(name=name))).tags)

    # Configuration

    async def set_config(self, node_type: NodeType, toml: str, description: str = "") -> int:
        """Publishes a configuration for all daemons of a type; returns its version."""
        request = pb.SetClusterConfigRequest(node_type=node_type, toml=toml, description=description)
        return (await self.call(Mgmtd.SET_CLUSTER_CONFIG, request)).version

    async def get_config(self, node_type: NodeType, version: int = 0) -> pb.ConfigRecord:
        """One version (0: the newest) of a type's configuration; NotFound if there is none."""
        request = pb.GetClusterConfigRequest(node_type=node_type, version=version)
        return (await self.call(Mgmtd.GET_CLUSTER_CONFIG, request)).config

    async def get_config_versions(self) -> pb.GetConfigVersionsReply:
        """The newest configuration of each type (without its text), and how far each daemon has followed."""
        return await self.call(Mgmtd.GET_CONFIG_VERSIONS, pb.GetConfigVersionsRequest())

    # Chains and tables

    async def set_chains(self, chains: Sequence[pb.ChainSetting]) -> None:
        """Creates chains whose targets are new and empty: all of them serve from the start."""
        await self.call(Mgmtd.SET_CHAINS, pb.SetChainsRequest(chains=chains))

    async def set_chain_table(self, table: ChainTableId, chains: Sequence[ChainId]) -> int:
        """Adds a version of a table (or finds it to be the newest already); returns its version."""
        return (await self.call(Mgmtd.SET_CHAIN_TABLE, pb.SetChainTableRequest(table=table, chains=chains))).version

    async def add_target(self, chain: ChainId, target: TargetId, node: NodeId, disk_index: int) -> Chain:
        """The target joins the chain's end, OFFLINE, and is filled once its daemon reports it."""
        return await self._update_chain(chain, pb.UpdateChainRequest.ADD, target, node, disk_index)

    async def remove_target(self, chain: ChainId, target: TargetId) -> Chain:
        """Takes an OFFLINE target out of its chain."""
        return await self._update_chain(chain, pb.UpdateChainRequest.REMOVE, target, NodeId(0), 0)

    async def _update_chain(
        self, chain: ChainId, mode: pb.UpdateChainRequest.Mode, target: TargetId, node: NodeId, disk_index: int
    ) -> Chain:
        place = pb.TargetPlace(target=target, node=node, disk_index=disk_index)
        request = pb.UpdateChainRequest(chain=chain, mode=mode, target=place)
        return chain_from_proto((await self.call(Mgmtd.UPDATE_CHAIN, request)).chain)

    async def rotate_last_serving(self, chain: ChainId, version: ChainVersion) -> Chain:
        """Gives up the last serving target for the next one. What only the first had is lost."""
        request = pb.RotateLastServingRequest(chain=chain, chain_version=version)
        return chain_from_proto((await self.call(Mgmtd.ROTATE_LAST_SERVING, request)).chain)

    async def set_preferred_order(self, chain: ChainId, targets: Sequence[TargetId]) -> Chain:
        request = pb.SetPreferredOrderRequest(chain=chain, targets=targets)
        return chain_from_proto((await self.call(Mgmtd.SET_PREFERRED_ORDER, request)).chain)

    async def rotate_as_preferred(self, chain: ChainId, version: ChainVersion) -> Chain:
        """One step towards the preferred order: one misplaced target goes offline, resyncs and rejoins."""
        request = pb.RotateAsPreferredRequest(chain=chain, chain_version=version)
        return chain_from_proto((await self.call(Mgmtd.ROTATE_AS_PREFERRED, request)).chain)

    async def list_orphan_targets(self) -> list[pb.OrphanTarget]:
        """Targets that daemons report and no chain has."""
        return list((await self.call(Mgmtd.LIST_ORPHAN_TARGETS, pb.ListOrphanTargetsRequest())).targets)

    # Client sessions

    async def list_client_sessions(self) -> pb.ListClientSessionsReply:
        return await self.call(Mgmtd.LIST_CLIENT_SESSIONS, pb.ListClientSessionsRequest())

    async def get_client_session(self, client: ClientId) -> pb.GetClientSessionReply:
        return await self.call(Mgmtd.GET_CLIENT_SESSION, pb.GetClientSessionRequest(client=client))
