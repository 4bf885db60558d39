"""Live progress: one line a stage that is at work, on a terminal or in a notebook; nothing for runs of a moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from threefs.smallpond.execution.events import Observer, StageProgress
from threefs.smallpond.report.format import seconds, size

QUIET_SECONDS = 0.7  # runs shorter than this show nothing
BAR = 24


class Progress(Observer):
    """Draws at most eight times a second, and leaves one summary line when the run ends."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr)
        self._stages: Sequence[StageProgress] = ()
        self._live: Live | None = None
        self._started = 0.0

    def run_started(self, stages: Sequence[StageProgress]) -> None:
        self._stages = stages
        self._started = time.monotonic()

    def stage_changed(self, progress: StageProgress) -> None:
        if self._live is None:
            if time.monotonic() - self._started < QUIET_SECONDS:
                return
            self._live = Live(console=self._console, refresh_per_second=8, transient=True, get_renderable=self._table)
            self._live.start()

    def run_ended(self, error: BaseException | None) -> None:
        if self._live is None:
            return
        self._live.stop()
        self._live = None
        done = sum(stage.done for stage in self._stages)
        state = "failed" if error is not None else "done"
        self._console.print(f"{state}: {done} tasks in {seconds(time.monotonic() - self._started)}", highlight=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for stage in self._stages:
            if stage.done < stage.needed and (stage.running or stage.done):
                filled = BAR * stage.done // max(1, stage.needed)
                bar = "█" * filled + "░" * (BAR - filled)
                facts = f"{stage.done}/{stage.needed}, {stage.rows:,} rows, {size(stage.bytes)}"
                table.add_row(stage.stage.title[:60], bar, facts)
        return table


def progress_observer(wanted: bool | None) -> Observer | None:
    """None when nobody looks: by default progress is shown on a terminal and in notebooks."""
    in_notebook = "ipykernel" in sys.modules
    return Progress() if wanted or (wanted is None and (sys.stderr.isatty() or in_notebook)) else None
