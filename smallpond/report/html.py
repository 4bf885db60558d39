"""One self-contained HTML page about the runs of a job: stages, a timeline of tasks by worker, every task's figures.

No script is loaded and no font fetched: the page can be sent by mail and opened years later.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from threefs.smallpond.execution.events import RunRecord, StageProgress, TaskRecord
from threefs.smallpond.execution.runtime_ctx import RuntimeContext
from threefs.smallpond.report.format import seconds, size

WIDTH, LANE = 1100, 18
TASKS_MAX = 5000  # shown one by one; more only counts in the stages
COLOURS = ("#4878cf", "#6acc65", "#d65f5f", "#b47cc7", "#c4ad66", "#77bedb", "#e68a00", "#7f7f7f")
STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child, td.text { text-align: left } pre { background: #f6f6f6; padding: 1em; overflow: auto }
.failed { color: #b00 } svg { background: #fafafa; border: 1px solid #ddd } details { margin: 1em 0 }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd } pre, svg { background: #252525 } }
"""


def render_report(context: RuntimeContext, runs: Sequence[RunRecord]) -> str:
    title = f"smallpond job {html.escape(context.job_id)}"
    body = "".join(_run(number, run) for number, run in enumerate(runs, 1) if run.tasks or run.error)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>"
        f"<body><h1>{title}</h1><p>{context.job_time:%Y-%m-%d %H:%M:%S}, {html.escape(context.data_root)}</p>"
        f"{body or '<p>Nothing has run yet.</p>'}</body></html>"
    )


def _run(number: int, run: RunRecord) -> str:
    failed = f'<pre class="failed">{html.escape(str(run.error))}</pre>' if run.error else ""
    tasks = [task for task in run.tasks if task.seconds > 0]
    length = max((t.started + t.seconds for t in tasks), default=0.0) - min((t.started for t in tasks), default=0.0)
    head = f"<h2>Run {number}: {len(run.tasks)} task attempts in {seconds(length)}</h2>"
    return head + failed + _stages(run.stages) + _timeline(tasks) + _tasks(run)


def _stages(stages: Sequence[StageProgress]) -> str:
    names = ("stage", "tasks", "reused", "retried", "raced", "time", "CPU", "rows", "size", "peak memory")
    rows = "".join(
        _row(
            [
                f"{stage.stage.id}: {stage.stage.title}",
                f"{stage.done}/{stage.needed}",
                stage.reused,
                stage.retried,
                stage.speculated,
                seconds(stage.seconds),
                seconds(stage.cpu_seconds),
                f"{stage.rows:,}",
                size(stage.bytes),
                size(stage.peak_bytes),
            ]
        )
        for stage in stages
    )
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{rows}</table>"


def _row(cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _timeline(tasks: Sequence[TaskRecord]) -> str:
    """A lane a worker, a box a task, a colour a stage."""
    if not tasks:
        return ""
    begin = min(task.started for task in tasks)
    length = max(task.started + task.seconds for task in tasks) - begin or 1.0
    lanes = {name: index for index, name in enumerate(sorted({f"{task.host} {task.worker}" for task in tasks}))}
    boxes = "".join(
        _box(task, lanes[f"{task.host} {task.worker}"], begin, WIDTH / length) for task in tasks[:TASKS_MAX]
    )
    names = "".join(
        f'<text x="4" y="{index * LANE + 13}" font-size="10" fill="#888">{html.escape(name)}</text>'
        for name, index in lanes.items()
    )
    return f'<svg width="{WIDTH}" height="{len(lanes) * LANE}">{boxes}{names}</svg>'


def _box(task: TaskRecord, lane: int, begin: float, scale: float) -> str:
    colour = COLOURS[task.stage % len(COLOURS)] if task.state == "done" else "#b00"
    x, width = (task.started - begin) * scale, max(1.0, task.seconds * scale)
    about = html.escape(
        f"stage {task.stage}, task {task.task}, attempt {task.attempt}: {task.state}, {seconds(task.seconds)}"
    )
    return (
        f'<rect x="{x:.1f}" y="{lane * LANE + 2}" width="{width:.1f}" height="{LANE - 4}" fill="{colour}">'
        f"<title>{about}</title></rect>"
    )


def _tasks(run: RunRecord) -> str:
    names = ("stage", "task", "attempt", "state", "worker", "time", "CPU", "rows", "size", "detail")
    rows = "".join(
        _row(
            [
                task.stage,
                task.task,
                task.attempt,
                task.state,
                f"{task.host} {task.worker}",
                seconds(task.seconds),
                seconds(task.cpu_seconds),
                "" if task.rows is None else f"{task.rows:,}",
                size(task.bytes),
                task.detail,
            ]
        )
        for task in run.tasks[:TASKS_MAX]
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<details><summary>{len(run.tasks)} task attempts</summary><table><tr>{head}</tr>{rows}</table></details>"
