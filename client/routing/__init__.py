"""Talking to mgmtd: the map (`RoutingClient`), admin calls (`MgmtdClient`), being a node or a client (agents)."""

from threefs.client.routing.heartbeat import HeartbeatAgent, TargetStatus
from threefs.client.routing.mgmtd_client import MgmtdClient
from threefs.client.routing.routing_client import RoutingClient
from threefs.client.routing.session import ClientSessionAgent

__all__ = ["ClientSessionAgent", "HeartbeatAgent", "MgmtdClient", "RoutingClient", "TargetStatus"]
