"""Options that several commands share, and where a command finds its cluster.

A cluster is named by `--dir` (a development cluster's folder) or `--mgmtd` (host:port, several separated by commas);
the environment variables THREEFS_DIR and THREEFS_MGMTD stand in for them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from threefs.common.errors import UserError

DirOption = Annotated[
    Path | None, typer.Option("--dir", "-d", envvar="THREEFS_DIR", help="Folder of a development cluster.")
]
MgmtdOption = Annotated[
    str, typer.Option("--mgmtd", envvar="THREEFS_MGMTD", help="Addresses of mgmtd, host:port[,host:port…].")
]
TokenOption = Annotated[str, typer.Option("--token", envvar="THREEFS_TOKEN", help="Token of the user who asks.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of a table.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before destroying something.")]


def addresses(folder: Path | None, mgmtd: str) -> list[str]:
    """The mgmtd addresses that the options name."""
    if mgmtd:
        found = [address.strip() for address in mgmtd.split(",") if address.strip()]
        for address in found:
            if not re.fullmatch(r".+:\d{1,5}", address):
                raise UserError(f"{address!r} is no address of mgmtd", "write HOST:PORT, several separated by commas")
        return found
    if folder is not None:
        from threefs.cli.dev.layout import load

        return load(folder).mgmtd_addresses()
    raise UserError("no cluster was named", "pass --dir DIR or --mgmtd HOST:PORT, or set THREEFS_DIR or THREEFS_MGMTD")


def required_dir(folder: Path | None) -> Path:
    if folder is None:
        raise UserError("no folder was named", "pass --dir DIR, or set THREEFS_DIR")
    return folder


def confirm(question: str, yes: bool) -> None:
    """Asks on a terminal; without one only `--yes` will do."""
    if yes:
        return
    if not os.isatty(0):
        raise UserError(f"{question} Not confirmed: there is no terminal to ask on", "repeat with --yes")
    if not typer.confirm(question):
        raise UserError("nothing was done", exit_code=130)
