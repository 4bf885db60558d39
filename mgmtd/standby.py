"""A mgmtd that is not primary is a node like others: it registers with the primary, so that `3fs status` shows it."""

from __future__ import annotations

import logging

from threefs.common.errors import ThreefsError
from threefs.common.net.interface import Transport
from threefs.common.net.service import invoke
from threefs.common.routing import Node
from threefs.common.routing_proto import node_to_proto
from threefs.common.runtime.interface import Runtime
from threefs.mgmtd.lease import Lease
from threefs.proto import mgmtd_pb2 as pb
from threefs.proto.mgmtd_rpc import Mgmtd

_log = logging.getLogger(__name__)

ATTEMPT_S = 1.0


class Standby:
    """`beat` is called every heartbeat interval while this daemon is not primary."""

    def __init__(self, runtime: Runtime, transport: Transport, lease: Lease, node: Node) -> None:
        self._transport = transport
        self._lease = lease
        self._node = node
        self._started_us = runtime.wall_us()
        self._registered_at = b""  # the primary (its mark in the lease) that knows this daemon
        self._number = 0

    async def beat(self) -> None:
        """One heartbeat to the primary; a primary that does not answer is the lease's matter."""
        primary = self._lease.primary
        if not primary.address or primary.node == self._node.id:
            return
        try:
            if self._registered_at != primary.holder:
                await self._register(primary.address)
                self._registered_at = primary.holder
            self._number += 1
            message = pb.HeartbeatRequest(node=self._node.id, incarnation=self._lease.holder, number=self._number)
            await invoke(self._transport, primary.address, Mgmtd.HEARTBEAT, message, timeout_s=ATTEMPT_S)
        except ThreefsError as exc:
            _log.debug("primary mgmtd at %s: %s", primary.address, exc)
            self._registered_at = b""

    async def _register(self, address: str) -> None:
        message = pb.RegisterNodeRequest(
            node=node_to_proto(self._node), incarnation=self._lease.holder, started_us=self._started_us
        )
        await invoke(self._transport, address, Mgmtd.REGISTER_NODE, message, timeout_s=ATTEMPT_S)
