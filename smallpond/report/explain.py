"""explain: the plan as written, as optimised, as it runs."""

from __future__ import annotations

from threefs.smallpond.execution.job import Job
from threefs.smallpond.logical.node import Context, LogicalPlan, Node


def explain_text(job: Job, ctx: Context, node: Node, analyze: bool) -> str:
    return LogicalPlan(ctx, node).explain_str()
