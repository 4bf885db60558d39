"""How commands speak: results on stdout (tables on a terminal, JSON for machines), messages and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from threefs.common.errors import (
    DataError,
    FileError,
    InternalError,
    NoSpace,
    RoutingError,
    StoreError,
    ThreefsError,
    TransientError,
    Unauthenticated,
    UserError,
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A message for the person at the prompt; never part of a result."""
    err.print(message)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """A table; in a pipe plain text with the same columns, separated by tabs."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            sys.stdout.write("\t".join(str(cell) for cell in row) + "\n")
        return
    table = Table(*columns, title=title or None, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    out.print(table)


def state_text(state: str) -> str:
    """A state in its colour: green for what serves, red for what does not."""
    colours = {"serving": "green", "connected": "green", "primary": "green", "running": "green", "syncing": "yellow"}
    colours |= {"waiting": "yellow", "connecting": "yellow", "lastsrv": "red", "offline": "red", "failed": "red"}
    colour = colours.get(state.lower())
    return f"[{colour}]{state}[/]" if colour and sys.stdout.isatty() else state


@contextmanager
def progress_bar(title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for long work; silent when stderr is no terminal."""
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=total_bytes)
        yield lambda done: progress.advance(task, done)


def bytes_text(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


_NEXT_STEPS: dict[type[ThreefsError], str] = {  # by what the caller can do: the nearest ancestor counts
    TransientError: "3fs status says what is down and what to start",
    RoutingError: "3fs status says what is down and what to start",
    StoreError: "3fs status says what is down; look at the log of the meta or mgmtd daemon",
    Unauthenticated: "set THREEFS_TOKEN to a token of yours; an administrator makes one: 3fs user token UID",
    NoSpace: "remove files: their space is free some seconds later",
    DataError: "3fs fsck shows what is damaged",
    InternalError: "this is a bug: report it with the log of the daemon that was asked",
    FileError: "check the path, and who may use it: 3fs fs stat PATH",
    ThreefsError: "correct the arguments: --help explains them",
}


def fail(error: UserError | ThreefsError) -> int:
    """Prints an error as one sentence and its next step; returns the exit code."""
    err.print(f"[red]error:[/] {_escaped(str(error))}")
    hint = error.hint if isinstance(error, UserError) else next_step(error)
    if hint:
        err.print(f"       {_escaped(hint)}")
    return getattr(error, "exit_code", 1)


def next_step(error: ThreefsError) -> str:
    return next(_NEXT_STEPS[cls] for cls in type(error).__mro__ if cls in _NEXT_STEPS)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
