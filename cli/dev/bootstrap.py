"""Brings the daemons of a development cluster to the point where it serves: nodes heard, chains there, all serving."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from threefs.cli.dev.layout import ClusterSpec
from threefs.client.routing import RoutingClient
from threefs.common.errors import ThreefsError, UserError
from threefs.common.ids import ChainTableId, NodeId
from threefs.common.net.frame_client import FrameTransport
from threefs.common.net.interface import Transport
from threefs.common.net.service import invoke
from threefs.common.routing import NodeStatus, PublicState, Routing
from threefs.common.runtime.real import RealRuntime
from threefs.mgmtd.placement import plan
from threefs.proto import mgmtd_pb2 as pb
from threefs.proto import storage_pb2 as storage_pb
from threefs.proto.storage_rpc import Storage

TABLE = ChainTableId(1)
ALIVE = (NodeStatus.CONNECTED, NodeStatus.PRIMARY)


@dataclass(slots=True)
class Session:
    """A tool's connection to a cluster."""

    runtime: RealRuntime
    transport: Transport
    routing: RoutingClient


@asynccontextmanager
async def connected(addresses: list[str], *, timeout_s: float = 10.0) -> AsyncIterator[Session]:
    """UserError if no mgmtd answers in time."""
    runtime = RealRuntime()
    transport = FrameTransport()
    routing = RoutingClient(runtime, transport, addresses)
    try:
        try:
            await routing.start(timeout_s=timeout_s)
        except ThreefsError as exc:
            hint = "is the cluster up? 3fs dev status --dir DIR shows the daemons of a development cluster"
            raise UserError(f"no mgmtd answers at {', '.join(addresses)}", hint) from exc
        yield Session(runtime, transport, routing)
    finally:
        await routing.stop()
        await transport.close()
        await runtime.close()


def all_serving(routing: Routing) -> bool:
    """Every chain there is, with every target SERVING."""
    states = [state for chain in routing.chains.values() for state in chain.states]
    return bool(states) and all(state is PublicState.SERVING for state in states)


async def bring_up(spec: ClusterSpec, check: Callable[[], None], *, timeout_s: float) -> None:
    """Waits until all nodes are heard, makes the chains of a new cluster, waits until all serve.

    `check` is called while waiting and raises if a daemon has ended.
    """
    while not await _answers(spec.mgmtd_addresses()):
        check()
        await asyncio.sleep(0.05)
    async with connected(spec.mgmtd_addresses(), timeout_s=timeout_s) as session:
        wanted = [NodeId(d.node_id) for d in spec.daemons if d.role in ("mgmtd", "meta", "storage")]
        await _wait(session, lambda routing: _nodes_alive(routing, wanted), check, timeout_s, "all daemons")
        if not session.routing.routing.chains:
            storages = [NodeId(daemon.node_id) for daemon in spec.of_role("storage")]
            await make_chains(session, storages, chains=spec.chains, replicas=spec.replicas)
        await _wait(session, all_serving, check, timeout_s, "all chains")


async def _answers(addresses: list[str]) -> bool:
    """Does any of them accept connections?"""
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            continue
        writer.close()
        return True
    return False


async def _wait(
    session: Session,
    predicate: Callable[[Routing], bool],
    check: Callable[[], None],
    timeout_s: float,
    what: str,
) -> None:
    deadline = session.runtime.now() + timeout_s
    while not predicate(session.routing.routing):
        check()
        if session.runtime.now() > deadline:
            raise UserError(f"{what} did not come up within {timeout_s:g} s", "3fs status shows what is missing")
        await asyncio.sleep(0.05)


def _nodes_alive(routing: Routing, wanted: list[NodeId]) -> bool:
    return all(node in routing.nodes and routing.nodes[node].status in ALIVE for node in wanted)


async def make_chains(session: Session, nodes: list[NodeId], *, chains: int, replicas: int, disks: int = 1) -> int:
    """Targets on every disk of every node, `chains` chains over the disks of each index such that each node shares
    chains with every other, and table 1 of all of them; returns how many there are. For a cluster without chains."""
    if chains * replicas % len(nodes):
        raise UserError(
            f"{chains} chains of {replicas} targets do not spread evenly over {len(nodes)} nodes",
            f"choose a number of chains that is a multiple of {len(nodes) // math.gcd(len(nodes), replicas)}",
        )
    planned = plan(nodes, disks_per_node=disks, targets_per_disk=chains * replicas // len(nodes), replicas=replicas)
    for place in (place for chain in planned for place in chain.places):
        request = storage_pb.CreateTargetRequest(target=place.target, disk_index=place.disk_index)
        address = session.routing.routing.nodes[place.node].address
        await invoke(session.transport, address, Storage.CREATE_TARGET, request, timeout_s=60.0)
    settings = [
        pb.ChainSetting(
            chain=chain.chain,
            targets=[
                pb.TargetPlace(target=place.target, node=place.node, disk_index=place.disk_index)
                for place in chain.places
            ],
        )
        for chain in planned
    ]
    await session.routing.mgmtd.set_chains(settings)
    await session.routing.mgmtd.set_chain_table(TABLE, [chain.chain for chain in planned])
    return len(planned)
