"""`3fs disk …`: the disks of the storage daemons, and a new one in place of one that was lost.

The one rule: a target is only ever begun anew, empty, while its chain counts it as offline; the storage daemon checks
that too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from threefs.cli.dev.bootstrap import ALIVE, Session, connected
from threefs.cli.entry import run_async
from threefs.cli.options import DirOption, JsonOption, MgmtdOption, YesOption, addresses, confirm
from threefs.cli.output import bytes_text, print_json, print_table, say
from threefs.cli.status import fetch_routing
from threefs.common.errors import UserError
from threefs.common.ids import NodeId
from threefs.common.net.service import invoke
from threefs.common.routing import PublicState, Target
from threefs.proto import storage_pb2 as pb
from threefs.proto.storage_rpc import Storage

app = typer.Typer(no_args_is_help=True, help="Disks of the storage daemons.")
CALL_S = 10.0


@app.command("list")
def list_disks(folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False) -> None:
    """Every disk that has targets: where it is, and how many of them serve."""
    targets = run_async(fetch_routing(addresses(folder, mgmtd))).targets.values()
    rows: list[dict[str, Any]] = []
    for node, disk in sorted({(target.node, target.disk_index) for target in targets}):
        here = _on(targets, node, disk)
        serving = sum(target.public is PublicState.SERVING for target in here)
        used = sum(target.used_bytes for target in here)
        rows.append({"node": node, "disk": disk, "targets": len(here), "serving": serving, "used_bytes": used})
    if as_json:
        print_json(rows)
    else:
        table = [(r["node"], r["disk"], r["targets"], r["serving"], bytes_text(r["used_bytes"])) for r in rows]
        print_table(("node", "disk", "targets", "serving", "used"), table)


@app.command("replace")
def replace_disk(
    node_id: Annotated[int, typer.Argument(metavar="NODE", help="Node id, as `3fs disk list` shows it.")],
    disk_index: Annotated[int, typer.Argument(metavar="DISK", help="Which of its disks: 0 is the first.")] = 0,
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
    yes: YesOption = False,
) -> None:
    """Begin the targets of a lost disk anew on the empty one in its place; their chains fill them.

    Put an empty folder or file system where the disk's `path` points and start the storage daemon first.
    """
    confirm(f"Begin the targets of disk {disk_index} of node {node_id} anew, empty?", yes)

    async def begin_anew() -> int:
        async with connected(addresses(folder, mgmtd)) as session:
            return await _replace(session, NodeId(node_id), disk_index)

    count = run_async(begin_anew())
    say(f"{count} targets were begun anew on disk {disk_index} of node {node_id} and are filled; 3fs status shows when")


async def _replace(session: Session, node_id: NodeId, disk_index: int) -> int:
    routing = session.routing.routing
    node = routing.nodes.get(node_id)
    if node is None or node.status not in ALIVE:
        how = "not known" if node is None else node.status.name.lower()
        raise UserError(f"node {node_id} is {how}", "start its storage daemon on the new disk first")
    wanted = _on(routing.targets.values(), node_id, disk_index)
    if not wanted:
        raise UserError(f"node {node_id} has no targets on disk {disk_index}", "3fs disk list shows which disks have")
    listed = await invoke(
        session.transport, node.address, Storage.LIST_TARGETS, pb.ListTargetsRequest(), timeout_s=CALL_S
    )
    there = {target.target for target in listed.targets}
    lost = [target for target in wanted if target.id not in there]
    if not lost:
        raise UserError(
            f"disk {disk_index} of node {node_id} has all its {len(wanted)} targets",
            "empty the disk's folder and restart its daemon, if they should be begun anew",
        )
    for target in lost:
        request = pb.CreateTargetRequest(target=target.id, disk_index=disk_index)
        await invoke(session.transport, node.address, Storage.CREATE_TARGET, request, timeout_s=CALL_S)
    return len(lost)


def _on(targets: Iterable[Target], node: NodeId, disk: int) -> list[Target]:
    return [target for target in targets if (target.node, target.disk_index) == (node, disk)]
