"""What mgmtd counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ROUTING_VERSION = Gauge("threefs_mgmtd_routing_version", "Version of the cluster map that this primary publishes")
TAKEOVERS = Counter("threefs_mgmtd_takeovers", "Times that this daemon became primary")
CHAIN_CHANGES = Counter("threefs_mgmtd_chain_changes", "New versions of chains that this primary published")
HEARTBEATS = Counter("threefs_mgmtd_heartbeats", "Heartbeats that were accepted")
NODES_FAILED = Counter("threefs_mgmtd_nodes_failed", "Nodes declared dead")
SESSIONS_EXPIRED = Counter("threefs_mgmtd_sessions_expired", "Client sessions that were not extended in time")
