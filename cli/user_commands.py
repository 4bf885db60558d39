"""`3fs user …`: accounts, and the tokens that prove who asks when the cluster authenticates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from threefs.cli.entry import run_async
from threefs.cli.options import DirOption, JsonOption, MgmtdOption, YesOption, addresses, confirm
from threefs.cli.output import print_json, print_table, say
from threefs.client.connect import connect
from threefs.client.meta import users
from threefs.client.meta.client import MetaClient
from threefs.client.meta.types import User

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="Users and their tokens. Give your own token in THREEFS_TOKEN.")
UidArgument = Annotated[int, typer.Argument(metavar="UID", min=0)]


def _with_meta(folder: Path | None, mgmtd: str, work: Callable[[MetaClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connect(addresses(folder, mgmtd), description="3fs user") as files:
            return await work(files.meta)

    return run_async(run())


@app.command("add")
def add(
    uid: UidArgument,
    name: Annotated[str, typer.Argument()],
    gid: Annotated[int | None, typer.Option(help="Primary group; default: the uid.")] = None,
    groups: Annotated[list[int] | None, typer.Option("--group", help="Further group; may be repeated.")] = None,
    root: Annotated[bool, typer.Option(help="May act for anybody.")] = False,
    admin: Annotated[bool, typer.Option(help="May change users and configuration.")] = False,
    days: Annotated[float, typer.Option(min=0, help="Lifetime of the token, days; 0: no end.")] = 0,
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Create a user and print its token: it is shown this once."""
    account = User(uid, name, uid if gid is None else gid, tuple(groups or ()), root, admin)
    lifetime_us = int(days * 86400e6)

    async def work(meta: MetaClient) -> str:
        made = await users.put_user(meta, account, new_token=True, token_lifetime_us=lifetime_us, create_only=True)
        return made[1]

    typer.echo(_with_meta(folder, mgmtd, work))
    say(f"user {name} ({uid}) was created; keep the token, for example in THREEFS_TOKEN")


@app.command("token")
def new_token(
    uid: UidArgument,
    days: Annotated[float, typer.Option(min=0, help="Lifetime of the token, days; 0: no end.")] = 0,
    revoke: Annotated[bool, typer.Option(help="End all tokens there were, now.")] = False,
    grace_days: Annotated[float, typer.Option(min=0, help="End the tokens there were after this; 0: keep.")] = 0,
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Give a user a new token and print it."""

    async def work(meta: MetaClient) -> str:
        account = await users.get_user(meta, uid)
        made = await users.put_user(
            meta,
            account,
            new_token=True,
            token_lifetime_us=int(days * 86400e6),
            grace_us=int(grace_days * 86400e6),
            revoke_tokens=revoke,
        )
        return made[1]

    typer.echo(_with_meta(folder, mgmtd, work))


@app.command("list")
def list_users(folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False) -> None:
    """List all users."""
    found = _with_meta(folder, mgmtd, users.list_users)
    if as_json:
        print_json([asdict(account) for account in found])
        return
    rows = [
        (u.uid, u.name, u.gid, " ".join(map(str, u.groups)), _flags(u), ", ".join(map(_end, u.token_ends_us)) or "-")
        for u in found
    ]
    print_table(("uid", "name", "gid", "groups", "rights", "tokens end"), rows)


@app.command("remove")
def remove(uid: UidArgument, folder: DirOption = None, mgmtd: MgmtdOption = "", yes: YesOption = False) -> None:
    """Remove a user and its tokens; its files stay."""
    confirm(f"Remove user {uid}?", yes)
    _with_meta(folder, mgmtd, lambda meta: users.remove_user(meta, uid))
    say(f"user {uid} was removed")


@app.command("whoami")
def who_am_i(folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False) -> None:
    """Show whom the cluster takes you for."""
    account = _with_meta(folder, mgmtd, users.who_am_i)
    if as_json:
        print_json(asdict(account))
    else:
        typer.echo(f"{account.name or account.uid} uid={account.uid} gid={account.gid} {_flags(account)}".rstrip())


def _flags(account: User) -> str:
    return " ".join(name for name in ("root", "admin") if getattr(account, name))


def _end(ends_us: int) -> str:
    return datetime.fromtimestamp(ends_us / 1e6, UTC).isoformat(" ", "minutes") if ends_us else "never"
