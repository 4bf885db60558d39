"""The `3fs` command. Commands are thin; what they need is imported when they run, so that --help is instant."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from threefs.cli.entry import guarded

# name → (module, what --help says): imported when it is used
GROUPS = {
    "dev": ("dev_commands", "A cluster on this machine: up, down, status, restart, demo."),
    "node": ("admin_commands:node", "Daemons of the cluster."),
    "target": ("admin_commands:target", "Storage targets: one replica's place on one disk."),
    "disk": ("disk_commands", "Disks of the storage daemons; a new one for a lost one."),
    "chain": ("admin_commands:chain", "Replication chains."),
    "chain-table": ("admin_commands:chain_table", "Chain tables: the chains that files are spread over."),
    "config": ("admin_commands:config", "The cluster-wide configuration, versioned."),
    "user": ("user_commands", "Users and their tokens."),
    "fs": ("fs_commands", "Files of the cluster, without a mount."),
    "bench": ("bench_commands", "Measurements, as ratios to a ceiling in the same run."),
    "graysort": ("graysort_commands", "Sort-benchmark records: generate, sort, validate."),
}


class LazyGroup(TyperGroup):
    """Knows its sub-commands by name, imports one when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in GROUPS:
            return super().get_command(ctx, cmd_name)
        module, text = GROUPS[cmd_name]
        if cmd_name not in sys.argv:
            return TyperCommand(cmd_name, help=text)  # a line of --help
        path, _, attribute = module.partition(":")
        found = getattr(importlib.import_module(f"threefs.cli.{path}"), attribute or "app")
        command = typer.main.get_group(found)  # get_command would make a group of one command that command
        command.name = cmd_name
        return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"3fs {version('threefs')}")
        raise typer.Exit


@app.callback()
def about(
    _: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which 3fs.")] = False,
) -> None:
    """3fs: a cluster file system for AI work.

    Start with `3fs dev up --dir DIR --mount PATH`: a cluster on this machine, mounted at PATH.
    """


@app.command()
def run(
    role: Annotated[str, typer.Argument(help="mgmtd, meta, storage or mount.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The daemon's TOML file.")],
) -> None:
    """Run one daemon in the foreground, until SIGTERM."""
    from threefs.cli.run import run as run_daemon

    run_daemon(role, config)


@app.command()
def status(
    folder: Annotated[
        Path | None, typer.Option("--dir", "-d", envvar="THREEFS_DIR", help="Folder of a development cluster.")
    ] = None,
    mgmtd: Annotated[str, typer.Option("--mgmtd", envvar="THREEFS_MGMTD", help="host:port of mgmtd.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of tables.")] = False,
) -> None:
    """What is healthy, what is not, and what to do about it. Exit code 3 if something is not."""
    from threefs.cli.status import show_status

    raise typer.Exit(show_status(folder, mgmtd, as_json))


@app.command()
def fsck(
    folder: Annotated[
        Path | None, typer.Option("--dir", "-d", envvar="THREEFS_DIR", help="Folder of a development cluster.")
    ] = None,
    mgmtd: Annotated[str, typer.Option("--mgmtd", envvar="THREEFS_MGMTD", help="host:port of mgmtd.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a report.")] = False,
) -> None:
    """Check the namespace, lengths, orphan chunks, and that all replicas are equal. Exit code 4 if not clean."""
    from threefs.cli.fsck import check_cluster

    raise typer.Exit(check_cluster(folder, mgmtd, as_json))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def overlap(ctx: typer.Context) -> None:
    """Analyse profiler traces: how much communication is hidden behind computation."""
    from threefs.compute_kernels.overlap.cli import main as analyse

    raise typer.Exit(analyse(ctx.args))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def warmup(ctx: typer.Context) -> None:
    """Compile the GPU kernels ahead of time, in an image's build or before a service starts."""
    from threefs.common.errors import UserError
    from threefs.compute_kernels.errors import KernelError
    from threefs.compute_kernels.warmup import main as compile_kernels

    try:
        code = compile_kernels(ctx.args)
    except KernelError as exc:
        raise UserError(str(exc), "3fs warmup --help says what it takes") from exc
    raise typer.Exit(code)


def main() -> None:
    """Entry point of `3fs`."""
    guarded(app)


if __name__ == "__main__":
    main()
