"""`3fs node|target|chain|chain-table|config …`: what mgmtd knows, and changes to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from threefs.cli import status as tables
from threefs.cli.dev.bootstrap import ALIVE, Session, connected, make_chains
from threefs.cli.entry import run_async
from threefs.cli.options import DirOption, JsonOption, MgmtdOption, YesOption, addresses, confirm
from threefs.cli.output import print_json, print_table, say
from threefs.common.errors import UserError
from threefs.common.ids import ChainId, NodeId, TargetId
from threefs.common.routing import NodeType, Routing

T = TypeVar("T")
node = typer.Typer(no_args_is_help=True, help="Daemons of the cluster.")
target = typer.Typer(no_args_is_help=True, help="Storage targets: one replica's place on one disk.")
chain = typer.Typer(no_args_is_help=True, help="Replication chains.")
chain_table = typer.Typer(no_args_is_help=True, help="Chain tables: the chains that files are spread over.")
config = typer.Typer(no_args_is_help=True, help="The cluster-wide configuration, versioned; daemons follow it live.")


def _with_session(folder: Path | None, mgmtd: str, work: Callable[[Session], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connected(addresses(folder, mgmtd)) as session:
            return await work(session)

    return run_async(run())


def _routing(folder: Path | None, mgmtd: str) -> Routing:
    return run_async(tables.fetch_routing(addresses(folder, mgmtd)))


# --- nodes ----------------------------------------------------------------------------------------------------------


@node.command("list")
def list_nodes(folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False) -> None:
    """Every daemon that ever registered, and how it is."""
    routing = _routing(folder, mgmtd)
    if as_json:
        print_json(tables.as_dict(routing)["nodes"])
    else:
        print_table(("node", "role", "state", "address", "host", "pid"), tables.node_rows(routing))


NodeArgument = Annotated[int, typer.Argument(metavar="NODE", help="Node id, as `3fs node list` shows it.")]


@node.command("disable")
def disable_node(
    node_id: NodeArgument, folder: DirOption = None, mgmtd: MgmtdOption = "", yes: YesOption = False
) -> None:
    """Take a node out: its targets go offline at once."""
    confirm(f"Disable node {node_id}? Its targets go offline.", yes)
    _with_session(folder, mgmtd, lambda session: session.routing.mgmtd.disable_node(NodeId(node_id)))
    say(f"node {node_id} is disabled")


@node.command("enable")
def enable_node(node_id: NodeArgument, folder: DirOption = None, mgmtd: MgmtdOption = "") -> None:
    """Let a disabled node back in."""
    _with_session(folder, mgmtd, lambda session: session.routing.mgmtd.enable_node(NodeId(node_id)))
    say(f"node {node_id} is enabled")


@node.command("forget")
def forget_node(
    node_id: NodeArgument, folder: DirOption = None, mgmtd: MgmtdOption = "", yes: YesOption = False
) -> None:
    """Forget a node that does not run and that no chain needs."""
    confirm(f"Forget node {node_id}?", yes)

    async def forget(session: Session) -> None:
        if NodeId(node_id) not in session.routing.routing.nodes:
            raise UserError(f"there is no node {node_id}", "3fs node list shows all")
        await session.routing.mgmtd.unregister_node(NodeId(node_id))

    _with_session(folder, mgmtd, forget)
    say(f"node {node_id} is forgotten")


# --- targets and chains ---------------------------------------------------------------------------------------------


@target.command("list")
def list_targets(folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False) -> None:
    """Every target: where it is, its state for everybody and as its daemon sees it."""
    routing = _routing(folder, mgmtd)
    columns = ("target", "chain", "node", "disk", "public", "local", "used")
    if as_json:
        found: list[dict[str, Any]] = [
            {
                "id": t.id,
                "chain": t.chain,
                "node": t.node,
                "disk": t.disk_index,
                "public": t.public.name.lower(),
                "local": t.local.name.lower(),
                "used_bytes": t.used_bytes,
                "low_space": t.low_space,
            }
            for t in routing.targets.values()
        ]
        print_json(found)
    else:
        print_table(columns, tables.target_rows(routing))


@chain.command("list")
def list_chains(folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False) -> None:
    """Every chain with its targets, head first."""
    routing = _routing(folder, mgmtd)
    if as_json:
        print_json(tables.as_dict(routing)["chains"])
    else:
        print_table(("chain", "version", "serving", "targets"), tables.chain_rows(routing))


@chain.command("create")
def create_chains(
    replicas: Annotated[int, typer.Option(min=1, help="Targets of each chain.")] = 3,
    chains: Annotated[int, typer.Option(min=1, help="Chains over the disks of each index.")] = 6,
    disks: Annotated[int, typer.Option(min=1, help="Disks of each storage daemon.")] = 1,
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Give a new cluster its targets, chains and chain table, over all storage daemons that are there now."""

    async def create(session: Session) -> int:
        routing = session.routing.routing
        if routing.chains:
            raise UserError(f"the cluster has {len(routing.chains)} chains already", "3fs chain list shows them")
        nodes = sorted(n.id for n in routing.nodes.values() if n.type is NodeType.STORAGE and n.status in ALIVE)
        if len(nodes) < replicas:
            raise UserError(
                f"{replicas} replicas need {replicas} storage daemons; {len(nodes)} are there",
                "start the others: 3fs node list shows who is there",
            )
        return await make_chains(session, nodes, chains=chains, replicas=replicas, disks=disks)

    made = _with_session(folder, mgmtd, create)
    say(f"{made} chains of {replicas} targets were created; 3fs status shows when they serve")


@chain.command("rotate-lastsrv")
def rotate_last_serving(
    chain_id: Annotated[int, typer.Argument(metavar="CHAIN")],
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
    yes: YesOption = False,
) -> None:
    """Stop waiting for a chain's last serving target: the next one takes its place. What only it has is LOST."""
    confirm(f"Give up the last serving target of chain {chain_id}? Writes that only it has are lost.", yes)

    async def rotate(session: Session) -> None:
        known = _chain(session.routing.routing, chain_id)
        await session.routing.mgmtd.rotate_last_serving(known.id, known.version)

    _with_session(folder, mgmtd, rotate)
    say(f"chain {chain_id} waits for its next target now")


@chain.command("prefer")
def set_preferred_order(
    chain_id: Annotated[int, typer.Argument(metavar="CHAIN")],
    targets: Annotated[list[int], typer.Argument(metavar="TARGET…", help="All targets of the chain, head first.")],
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Set the order that a chain's targets should have, for `3fs chain rotate-preferred`."""
    order = [TargetId(number) for number in targets]
    _with_session(folder, mgmtd, lambda s: s.routing.mgmtd.set_preferred_order(ChainId(chain_id), order))
    say(f"chain {chain_id} prefers {order}")


@chain.command("rotate-preferred")
def rotate_as_preferred(
    chain_id: Annotated[int, typer.Argument(metavar="CHAIN")], folder: DirOption = None, mgmtd: MgmtdOption = ""
) -> None:
    """Move one serving target towards its preferred place; it is filled again on the way."""

    async def rotate(session: Session) -> None:
        known = _chain(session.routing.routing, chain_id)
        await session.routing.mgmtd.rotate_as_preferred(known.id, known.version)

    _with_session(folder, mgmtd, rotate)
    say(f"chain {chain_id} rotates; 3fs chain list shows how far it is")


def _chain(routing: Routing, chain_id: int) -> Any:
    if ChainId(chain_id) not in routing.chains:
        raise UserError(f"there is no chain {chain_id}", "3fs chain list shows all")
    return routing.chains[ChainId(chain_id)]


@chain_table.command("list")
def list_chain_tables(folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False) -> None:
    """Every table and version; files remember the one that they were created with."""
    found = _routing(folder, mgmtd).tables.values()
    if as_json:
        print_json([{"id": t.id, "version": t.version, "chains": list(t.chains)} for t in found])
    else:
        rows = [(t.id, t.version, len(t.chains), " ".join(map(str, t.chains))) for t in found]
        print_table(("table", "version", "chains", "members"), rows)


# --- configuration --------------------------------------------------------------------------------------------------

RoleArgument = Annotated[str, typer.Argument(metavar="ROLE", help="mgmtd, meta, storage or mount.")]


@config.command("get")
def get_config(
    role: RoleArgument,
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
    version: Annotated[int, typer.Option(help="0: the newest.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Print the cluster configuration of a role."""
    from threefs.cli.daemons import role_named

    kind = role_named(role).node_type
    record = _with_session(folder, mgmtd, lambda session: session.routing.mgmtd.get_config(kind, version))
    if as_json:
        print_json({"role": role, "version": record.version, "toml": record.toml, "description": record.description})
    else:
        say(f"version {record.version} {record.description}" if record.version else f"no configuration for {role}")
        typer.echo(record.toml, nl=False)


@config.command("set")
def set_config(
    role: RoleArgument,
    file: Annotated[Path, typer.Argument(help="TOML file with the keys to override; hot keys change at once.")],
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
    description: Annotated[str, typer.Option("--message", help="Why.")] = "",
) -> None:
    """Store a new version of a role's configuration; daemons take its hot keys over with their next heartbeat."""
    from threefs.cli.daemons import role_named
    from threefs.common.config import check_partial

    kind = role_named(role)
    try:
        text = file.read_text()
    except OSError as exc:
        raise UserError(f"cannot read {file}: {exc.strerror}", "check the path") from exc
    check_partial(text, kind.config, where=str(file))
    version = _with_session(folder, mgmtd, lambda s: s.routing.mgmtd.set_config(kind.node_type, text, description))
    say(f"configuration of {role} is at version {version}")
