"""The cluster map: nodes, targets, chains and chain tables at one version. Immutable; mgmtd alone makes new ones.

Clients read chunks from any SERVING target of a chain and write to its first one. The order of a chain's
targets is: SERVING, LASTSRV, SYNCING, WAITING, OFFLINE; within a class the order of the last version stays.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from threefs.common.ids import (
    ChainId,
    ChainTableId,
    ChainVersion,
    NodeId,
    RoutingVersion,
    TargetId,
)


class PublicState(enum.IntEnum):
    """What mgmtd tells everybody about a target."""

    SERVING = 1  # reads and writes
    LASTSRV = 2  # down, and the last that served: only it has everything
    SYNCING = 4  # writes only; being filled by its predecessor
    WAITING = 8  # alive, waits for its turn to sync
    OFFLINE = 16


class LocalState(enum.IntEnum):
    """What a storage daemon reports about its own target."""

    UPTODATE = 1  # has everything that was acknowledged
    ONLINE = 2  # alive, has to be synced (or to be told that it is the last)
    OFFLINE = 4


class NodeType(enum.IntEnum):
    MGMTD = 0
    META = 1
    STORAGE = 2
    CLIENT = 3
    FUSE = 4


class NodeStatus(enum.IntEnum):
    PRIMARY = 0  # the mgmtd that holds the lease
    CONNECTED = 1
    CONNECTING = 2  # registered, no heartbeat yet
    FAILED = 3  # no heartbeat for the failure timeout
    DISABLED = 4  # by an administrator


@dataclass(frozen=True, slots=True)
class Node:
    id: NodeId
    type: NodeType
    status: NodeStatus
    address: str  # data and control frames, "host:port"
    grpc_address: str = ""  # where the gRPC carrier listens, if it does
    hostname: str = ""
    pid: int = 0
    tags: tuple[str, ...] = ()
    config_version: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """One replica: a place on one disk of one storage node, member of at most one chain."""

    id: TargetId
    node: NodeId
    chain: ChainId  # 0: in no chain
    disk_index: int
    public: PublicState
    local: LocalState
    used_bytes: int = 0
    low_space: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    id: ChainId
    version: ChainVersion  # carried in every storage request; a mismatch is StaleRouting
    targets: tuple[TargetId, ...]  # head first
    states: tuple[PublicState, ...]  # states[i] is that of targets[i]
    preferred: tuple[TargetId, ...] = ()

    def serving(self) -> tuple[TargetId, ...]:
        """Targets that may answer reads, head first."""
        return tuple(t for t, s in zip(self.targets, self.states, strict=True) if s is PublicState.SERVING)

    def writing(self) -> tuple[TargetId, ...]:
        """Targets that a write passes, head first: the serving ones, then the syncing one."""
        wanted = (PublicState.SERVING, PublicState.SYNCING)
        return tuple(t for t, s in zip(self.targets, self.states, strict=True) if s in wanted)

    def state_of(self, target: TargetId) -> PublicState | None:
        return self.states[self.targets.index(target)] if target in self.targets else None


@dataclass(frozen=True, slots=True)
class ChainTable:
    id: ChainTableId
    version: int  # a table version never changes; files remember (id, version)
    chains: tuple[ChainId, ...]


@dataclass(frozen=True, slots=True)
class Routing:
    """One version of the whole map."""

    version: RoutingVersion = RoutingVersion(0)
    cluster_id: str = ""
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    targets: dict[TargetId, Target] = field(default_factory=dict)
    chains: dict[ChainId, Chain] = field(default_factory=dict)
    tables: dict[tuple[ChainTableId, int], ChainTable] = field(default_factory=dict)

    def target_address(self, target: TargetId) -> str:
        """Where requests for a target go; KeyError if the map does not know it."""
        return self.nodes[self.targets[target].node].address
