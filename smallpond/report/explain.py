"""explain: the plan as written, as optimised, and as stages of tasks; with `analyze`, what each stage took."""

from __future__ import annotations

from threefs.smallpond.execution.events import RunRecord, StageProgress
from threefs.smallpond.execution.job import Job
from threefs.smallpond.execution.stage import PhysicalPlan, Stage
from threefs.smallpond.logical.node import Context, HashPartitionNode, LogicalPlan, Node, SqlEngineNode
from threefs.smallpond.logical.node.plan import walk
from threefs.smallpond.report.format import seconds, size


def explain_text(job: Job, ctx: Context, node: Node, analyze: bool) -> str:
    """Three sections of text. Without `analyze` nothing is run."""
    record: RunRecord | None = None
    if analyze:
        optimized = job.optimized(ctx, [node])
        job.run(ctx, [node], set())
        record = job.runs[-1]
    else:
        optimized = job.optimized(ctx, [node])
    plan, _ = job.plan(ctx, [node])
    sections = [
        ("Logical plan", LogicalPlan(ctx, node).explain_str()),
        ("Optimised plan", _optimised(ctx, optimized[0])),
        ("Stages", _stages(plan) if record is None else _analyzed(record)),
    ]
    return "\n\n".join(f"== {title} ==\n{text}" for title, text in sections)


def _optimised(ctx: Context, root: Node) -> str:
    lines = [LogicalPlan(ctx, root).explain_str()]
    for node in walk(root):
        if isinstance(node, HashPartitionNode) and node.source is not None:
            lines.append(f"   {node.name} #{node.id} deals out: {node.source.oneline_query}")
        elif isinstance(node, SqlEngineNode) and node.label:
            lines.append(f"   {node.name} #{node.id} runs: {node.oneline_query}")
    return "\n".join(lines)


def _stages(plan: PhysicalPlan) -> str:
    return "\n".join(_stage(stage) for stage in plan.stages)


def _stage(stage: Stage) -> str:
    where = "in the driver" if stage.kind == "driver" else f"each {stage.request}"
    return f"{stage.id}: {stage.size} x {stage.title}  ({where})"


def _analyzed(record: RunRecord) -> str:
    lines = [_measured(progress) for progress in record.stages]
    total = sum(progress.cpu_seconds for progress in record.stages)
    reused = sum(progress.reused for progress in record.stages)
    return "\n".join([*lines, f"total: {seconds(total)} CPU, {reused} results reused"])


def _measured(progress: StageProgress) -> str:
    took = f"{seconds(progress.seconds)}, {seconds(progress.cpu_seconds)} CPU"
    rows = f"{progress.rows:,} rows, {size(progress.bytes)}"
    extra = [
        f"{count} {word}"
        for count, word in ((progress.reused, "reused"), (progress.retried, "retried"), (progress.speculated, "raced"))
        if count
    ]
    peak = [f"peak {size(progress.peak_bytes)}"] if progress.peak_bytes else []
    facts = ", ".join([f"{progress.done}/{progress.needed} tasks", took, rows, *peak, *extra])
    return f"{progress.stage.id}: {progress.stage.title}\n   {facts}"
