"""What mgmtd keeps in the transactional store, and the one way to it.

Keys begin with four letters; integers in keys are big-endian, so that ranges come in numerical order. Values are
messages of proto/mgmtd.proto, or decimal text where stated.

    SING MgmtdLease           LeaseRecord: who is primary (see mgmtd.lease)
    SING ClusterId            text: drawn once, compared at every start
    SING RoutingInfoVersion   decimal: version of the map below; it changes in the same transaction
    NODE u32 id               NodeRecord: the node as in the map, and its newest incarnation
    CHIF u32 id               RoutingChain
    CHIT u32 id, u32 version  RoutingTable; never changed once written
    TGIF u64 id               RoutingTarget: place, chain, last known states and usage
    CONF u32 node type, u64 (2^64-1 - version)   ConfigRecord; the newest comes first
    UTGS name                 UniversalTags of a host name or any other name

The one rule: nothing is written but by the holder of the lease. Every writing transaction reads the lease record, so
a deposed primary cannot commit, whatever its clock says.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from threefs.common.errors import NotFound, NotPrimary
from threefs.common.ids import NodeId, RoutingVersion
from threefs.common.kv.interface import KvEngine, Transaction, prefix_end
from threefs.common.routing import NodeType, Routing
from threefs.common.routing_proto import (
    chain_from_proto,
    chain_to_proto,
    node_from_proto,
    node_to_proto,
    table_from_proto,
    table_to_proto,
    target_from_proto,
    target_to_proto,
)
from threefs.mgmtd.state import Incarnation, State, delta
from threefs.proto import mgmtd_pb2 as pb

T = TypeVar("T")

LEASE_KEY = b"SINGMgmtdLease"
_CLUSTER_KEY = b"SINGClusterId"
_VERSION_KEY = b"SINGRoutingInfoVersion"
_VERSION_MAX = 2**64 - 1


def _u32(prefix: bytes, *numbers: int) -> bytes:
    return prefix + struct.pack(f">{len(numbers)}I", *numbers)


def _target_key(target: int) -> bytes:
    return b"TGIF" + struct.pack(">Q", target)


def _config_key(node_type: int, version: int) -> bytes:
    return b"CONF" + struct.pack(">IQ", node_type, _VERSION_MAX - version)


def _tags_key(name: str) -> bytes:
    return b"UTGS" + name.encode()


class Store:
    """mgmtd's records. `holder` is this daemon's mark in the lease."""

    def __init__(self, engine: KvEngine, holder: bytes) -> None:
        self.engine = engine
        self.holder = holder

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `body` in a transaction that commits only while this daemon holds the lease; else NotPrimary."""

        async def guarded(transaction: Transaction) -> T:
            record = await read_lease(transaction)
            if record.holder != self.holder:
                raise NotPrimary(f"the lease is held by mgmtd {record.node} at {record.address}")
            return await body(transaction)

        return await self.engine.transact(guarded)

    # The map

    async def load(self) -> tuple[Routing, dict[NodeId, Incarnation]]:
        """The stored map and the incarnations of its nodes, at one snapshot."""

        async def body(transaction: Transaction) -> tuple[Routing, dict[NodeId, Incarnation]]:
            version = int(await transaction.get(_VERSION_KEY) or b"0")
            cluster = (await transaction.get(_CLUSTER_KEY) or b"").decode()
            records = [pb.NodeRecord.FromString(value) for value in await _values(transaction, b"NODE")]
            nodes = [node_from_proto(record.node) for record in records]
            targets = [target_from_proto(pb.RoutingTarget.FromString(v)) for v in await _values(transaction, b"TGIF")]
            chains = [chain_from_proto(pb.RoutingChain.FromString(v)) for v in await _values(transaction, b"CHIF")]
            tables = [table_from_proto(pb.RoutingTable.FromString(v)) for v in await _values(transaction, b"CHIT")]
            routing = Routing(
                RoutingVersion(version),
                cluster,
                {node.id: node for node in nodes},
                {target.id: target for target in targets},
                {chain.id: chain for chain in chains},
                {(table.id, table.version): table for table in tables},
            )
            return routing, {
                NodeId(record.node.id): Incarnation(record.incarnation, record.started_us, record.release)
                for record in records
                if record.incarnation
            }

        return await self.engine.read(body)

    async def save(self, old: State, new: State) -> None:
        """Stores what differs between two states, in one transaction with the map's version."""

        async def body(transaction: Transaction) -> None:
            transaction.set(_VERSION_KEY, str(new.routing.version).encode())
            _save_nodes(transaction, old, new)
            targets = delta(old.routing.targets, new.routing.targets)
            for target in targets.put.values():
                transaction.set(_target_key(target.id), target_to_proto(target).SerializeToString())
            _clear(transaction, (_target_key(target_id) for target_id in targets.gone))
            chains = delta(old.routing.chains, new.routing.chains)
            for chain in chains.put.values():
                transaction.set(_u32(b"CHIF", chain.id), chain_to_proto(chain).SerializeToString())
            _clear(transaction, (_u32(b"CHIF", chain_id) for chain_id in chains.gone))
            tables = delta(old.routing.tables, new.routing.tables)
            for table in tables.put.values():
                transaction.set(_u32(b"CHIT", table.id, table.version), table_to_proto(table).SerializeToString())

        await self.write(body)

    async def claim_cluster_id(self, wanted: str, drawn: str) -> str:
        """The store's cluster id; a store without one takes `wanted`, or `drawn` if that is empty."""

        async def body(transaction: Transaction) -> str:
            found = await transaction.get(_CLUSTER_KEY)
            if found is not None:
                return found.decode()
            transaction.set(_CLUSTER_KEY, (wanted or drawn).encode())
            return wanted or drawn

        return await self.write(body)

    # Configuration

    async def put_config(self, record: pb.ConfigRecord) -> int:
        """Adds a version, unless the newest one has the same text; returns the newest version."""

        async def body(transaction: Transaction) -> int:
            newest = await _newest_config(transaction, record.node_type)
            if newest is not None and newest.toml == record.toml:
                return newest.version
            added = pb.ConfigRecord()
            added.CopyFrom(record)
            added.version = newest.version + 1 if newest is not None else 1
            transaction.set(_config_key(added.node_type, added.version), added.SerializeToString())
            return added.version

        return await self.write(body)

    async def get_config(self, node_type: NodeType, version: int) -> pb.ConfigRecord:
        """One version, 0 being the newest; NotFound if there is none."""

        async def body(transaction: Transaction) -> pb.ConfigRecord | None:
            if not version:
                return await _newest_config(transaction, node_type)
            value = await transaction.get(_config_key(node_type, version))
            return pb.ConfigRecord.FromString(value) if value is not None else None

        record = await self.engine.read(body)
        if record is None:
            which = f"version {version} of the" if version else "no"
            raise NotFound(f"there is {which} configuration for {node_type.name} daemons; `3fs config set` adds one")
        return record

    async def newest_configs(self) -> dict[NodeType, pb.ConfigRecord]:
        async def body(transaction: Transaction) -> dict[NodeType, pb.ConfigRecord]:
            found = {node_type: await _newest_config(transaction, node_type) for node_type in NodeType}
            return {node_type: record for node_type, record in found.items() if record is not None}

        return await self.engine.read(body)

    # Tags

    async def put_tags(self, name: str, tags: Iterable[str]) -> None:
        record = pb.UniversalTags(tags=tags)

        async def body(transaction: Transaction) -> None:
            if record.tags:
                transaction.set(_tags_key(name), record.SerializeToString())
            else:
                transaction.clear(_tags_key(name))

        await self.write(body)

    async def all_tags(self) -> dict[str, tuple[str, ...]]:
        async def body(transaction: Transaction) -> dict[str, tuple[str, ...]]:
            pairs = await transaction.get_range(b"UTGS", prefix_end(b"UTGS"))
            return {key[4:].decode(): tuple(pb.UniversalTags.FromString(value).tags) for key, value in pairs}

        return await self.engine.read(body)


async def read_lease(transaction: Transaction) -> pb.LeaseRecord:
    """The lease as it stands; empty if nobody has ever held it, or the holder gave it back."""
    return pb.LeaseRecord.FromString(await transaction.get(LEASE_KEY) or b"")


async def _values(transaction: Transaction, prefix: bytes) -> list[bytes]:
    return [value for _, value in await transaction.get_range(prefix, prefix_end(prefix))]


async def _newest_config(transaction: Transaction, node_type: int) -> pb.ConfigRecord | None:
    prefix = _u32(b"CONF", node_type)
    pairs = await transaction.get_range(prefix, prefix_end(prefix), limit=1)
    return pb.ConfigRecord.FromString(pairs[0][1]) if pairs else None


def _save_nodes(transaction: Transaction, old: State, new: State) -> None:
    """A node's record holds its incarnation too, but not the number of its heartbeats."""
    for node_id, node in new.routing.nodes.items():
        life, before = new.incarnations.get(node_id), old.incarnations.get(node_id)
        same_life = (life.id if life else b"") == (before.id if before else b"")
        if old.routing.nodes.get(node_id) == node and same_life:
            continue
        record = pb.NodeRecord(node=node_to_proto(node))
        if life is not None:
            record.incarnation, record.started_us, record.release = life.id, life.started_us, life.release
        transaction.set(_u32(b"NODE", node_id), record.SerializeToString())
    _clear(transaction, (_u32(b"NODE", key) for key in old.routing.nodes if key not in new.routing.nodes))


def _clear(transaction: Transaction, keys: Iterable[bytes]) -> None:
    for key in keys:
        transaction.clear(key)
