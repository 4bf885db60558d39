"""`3fs status`: the health of a cluster in three tables, and what to do about what is not healthy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threefs.cli.dev.bootstrap import connected
from threefs.cli.entry import run_async
from threefs.cli.options import addresses
from threefs.cli.output import bytes_text, print_json, print_table, say, state_text
from threefs.common.routing import Chain, LocalState, NodeStatus, PublicState, Routing

_HEALTHY_NODE = (NodeStatus.PRIMARY, NodeStatus.CONNECTED)


def show_status(folder: Path | None, mgmtd: str, as_json: bool) -> int:
    """Prints it; 0 if all is healthy, 3 if not."""
    routing = run_async(fetch_routing(addresses(folder, mgmtd)))
    advice = what_to_do(routing)
    if as_json:
        print_json(as_dict(routing) | {"healthy": not advice, "advice": advice})
    else:
        say(f"cluster {routing.cluster_id}, routing version {routing.version}")
        print_table(("node", "role", "state", "address", "host", "pid"), node_rows(routing), title="nodes")
        print_table(("chain", "version", "serving", "targets"), chain_rows(routing), title="chains")
        for line in advice or ["all is healthy"]:
            say(line)
    return 3 if advice else 0


async def fetch_routing(mgmtd: list[str]) -> Routing:
    async with connected(mgmtd) as session:
        return session.routing.routing


def node_rows(routing: Routing) -> list[tuple[Any, ...]]:
    nodes = sorted(routing.nodes.values(), key=lambda node: (node.type, node.id))
    return [
        (n.id, n.type.name.lower(), state_text(n.status.name.lower()), n.address, n.hostname, n.pid or "-")
        for n in nodes
    ]


def chain_rows(routing: Routing) -> list[tuple[Any, ...]]:
    return [
        (chain.id, chain.version, f"{len(chain.serving())}/{len(chain.targets)}", _members(routing, chain))
        for chain in routing.chains.values()
    ]


def _members(routing: Routing, chain: Chain) -> str:
    members = zip(chain.targets, chain.states, strict=True)
    return "  ".join(f"{target} {state_text(state.name.lower())}" for target, state in members)


def target_rows(routing: Routing) -> list[tuple[Any, ...]]:
    return [
        (
            target.id,
            target.chain or "-",
            target.node,
            target.disk_index,
            state_text(target.public.name.lower()),
            state_text(LocalState(target.local).name.lower()),
            bytes_text(target.used_bytes),
        )
        for target in routing.targets.values()
    ]


def what_to_do(routing: Routing) -> list[str]:
    """One sentence for each thing that is not as it should be, with the next step; empty if all is healthy."""
    advice = []
    for node in routing.nodes.values():
        if node.status not in _HEALTHY_NODE:
            role = node.type.name.lower()
            step = (
                "enable it: 3fs node enable" if node.status is NodeStatus.DISABLED else "start it again, or see its log"
            )
            advice.append(f"{role} {node.id} is {node.status.name.lower()}: {step}")
    for chain in routing.chains.values():
        serving = len(chain.serving())
        if serving == len(chain.targets):
            continue
        if PublicState.LASTSRV in chain.states:
            last = chain.targets[chain.states.index(PublicState.LASTSRV)]
            node_id = routing.targets[last].node
            advice.append(f"chain {chain.id} is down: it waits for target {last} on node {node_id}; start that daemon")
        elif PublicState.SYNCING in chain.states:
            advice.append(
                f"chain {chain.id} has {serving} of {len(chain.targets)} targets and is filling the next: wait"
            )
        else:
            advice.append(f"chain {chain.id} serves with {serving} of {len(chain.targets)} targets: start the others")
    advice += _lost_disks(routing)
    if not routing.chains:
        advice.append("there are no chains yet: 3fs chain create makes them, once all storage daemons are there")
    return advice


def _lost_disks(routing: Routing) -> list[str]:
    """Daemons that are there without targets that their chains wait for."""
    lost = sorted(
        {
            (target.node, target.disk_index)
            for target in routing.targets.values()
            if target.chain and target.public is PublicState.OFFLINE and target.local is LocalState.OFFLINE
            if target.node in routing.nodes and routing.nodes[target.node].status is NodeStatus.CONNECTED
        }
    )
    return [
        f"disk {disk} of node {node} does not serve: see the daemon's log; an empty one in its place begins to be "
        f"filled with: 3fs disk replace {node} {disk}"
        for node, disk in lost
    ]


def as_dict(routing: Routing) -> dict[str, Any]:
    """The routing as JSON has it; states in lower case."""
    return {
        "cluster_id": routing.cluster_id,
        "routing_version": routing.version,
        "nodes": [
            {
                "id": node.id,
                "role": node.type.name.lower(),
                "state": node.status.name.lower(),
                "address": node.address,
                "grpc_address": node.grpc_address,
                "hostname": node.hostname,
                "pid": node.pid,
                "tags": list(node.tags),
            }
            for node in routing.nodes.values()
        ],
        "chains": [
            {
                "id": chain.id,
                "version": chain.version,
                "serving": len(chain.serving()),
                "targets": [
                    {"id": target, "node": routing.targets[target].node, "state": state.name.lower()}
                    for target, state in zip(chain.targets, chain.states, strict=True)
                ],
            }
            for chain in routing.chains.values()
        ],
    }
