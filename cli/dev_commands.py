"""`3fs dev …`: a cluster on this machine."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from threefs.cli.options import DirOption, JsonOption, YesOption, required_dir
from threefs.cli.output import print_json, print_table, say, state_text

app = typer.Typer(no_args_is_help=True, help="A cluster on this machine: every daemon a process of its own.")


@app.command()
def up(
    folder: DirOption = None,
    mount: Annotated[str, typer.Option("--mount", "-m", help="Where to mount it (an empty directory).")] = "",
    storages: Annotated[int, typer.Option(min=1, max=16, help="Storage daemons.")] = 3,
    replicas: Annotated[int, typer.Option(min=1, max=6, help="Targets of a chain.")] = 3,
    chains: Annotated[int, typer.Option(min=1, max=96, help="Chains that files are spread over.")] = 6,
    kv: Annotated[str, typer.Option(help="Store of mgmtd and meta: embedded or etcd.")] = "embedded",
    metas: Annotated[int, typer.Option(min=1, max=8, help="Metadata daemons (several need --kv etcd).")] = 1,
    mgmtds: Annotated[int, typer.Option(min=1, max=5, help="Cluster managers (several need --kv etcd).")] = 1,
    chunk_kib: Annotated[int, typer.Option(min=64, max=65536, help="Chunk size of new files, KiB.")] = 1024,
) -> None:
    """Create the cluster in --dir, or start the one that is there, and wait until everything serves.

    3fs dev up --dir /tmp/c --mount /mnt/c
    """
    from threefs.cli.dev.cluster import open_or_create
    from threefs.common.errors import UserError

    if kv not in ("embedded", "etcd"):
        raise UserError(f"--kv {kv}: no such store for a development cluster", "use embedded or etcd")
    began = time.monotonic()
    cluster = open_or_create(
        required_dir(folder),
        kv=kv,
        mgmtds=mgmtds,
        metas=metas,
        storages=storages,
        replicas=replicas,
        chains=chains,
        mount=str(Path(mount).absolute()) if mount else "",
        chunk_bytes=chunk_kib << 10,
    )
    cluster.up()
    where = f", mounted at {cluster.spec.mount}" if cluster.spec.mount else ""
    say(f"cluster {cluster.spec.cluster_id} serves after {time.monotonic() - began:.1f} s{where}")
    say(f"next: 3fs status --dir {cluster.folder}   stop it with: 3fs dev down --dir {cluster.folder}")


@app.command()
def down(folder: DirOption = None) -> None:
    """Stop every daemon of the cluster; its data stays."""
    from threefs.cli.dev.cluster import DevCluster

    cluster = DevCluster.open(required_dir(folder))
    cluster.down()
    say(f"stopped; 3fs dev up --dir {cluster.folder} starts it again")


@app.command()
def status(folder: DirOption = None, as_json: JsonOption = False) -> None:
    """List the cluster's daemons: role, node id, process, address. Exit code 3 if one does not run."""
    from threefs.cli.dev.cluster import DevCluster

    daemons = DevCluster.open(required_dir(folder)).status()
    if as_json:
        print_json([asdict(daemon) | {"running": daemon.pid is not None} for daemon in daemons])
    else:
        rows = [
            (d.name, d.role, d.node_id, d.pid or "-", d.address, state_text("running" if d.pid else "offline"))
            for d in daemons
        ]
        print_table(("name", "role", "node", "pid", "address", "state"), rows)
    raise typer.Exit(0 if all(daemon.pid for daemon in daemons) else 3)


@app.command()
def restart(
    name: Annotated[str, typer.Argument(help="As `3fs dev status` calls it: storage-2, mgmtd-1 …")],
    folder: DirOption = None,
) -> None:
    """Restart one daemon, or start it if it is gone."""
    from threefs.cli.dev.cluster import DevCluster

    pid = DevCluster.open(required_dir(folder)).restart(name)
    say(f"{name} runs as process {pid}")


@app.command()
def destroy(folder: DirOption = None, yes: YesOption = False) -> None:
    """Stop the cluster and remove its folder with all data."""
    from shutil import rmtree

    from threefs.cli.dev.cluster import DevCluster
    from threefs.cli.options import confirm

    cluster = DevCluster.open(required_dir(folder))
    confirm(f"Remove {cluster.folder} with all files of the cluster?", yes)
    cluster.down()
    rmtree(cluster.folder)
    say(f"removed {cluster.folder}")


@app.command()
def demo(
    records: Annotated[int, typer.Option(min=1000, help="Records of 100 bytes to sort.")] = 5_000_000,
    folder: Annotated[Path | None, typer.Option("--dir", help="Where to put it; default: a temporary folder.")] = None,
) -> None:
    """Start a cluster, sort records on it through the mount, validate, report, and clean up."""
    from threefs.cli.demo import run_demo

    run_demo(records, folder)
