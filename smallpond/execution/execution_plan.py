"""A finished run of a logical plan: what came out, by name and at the root."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from threefs.common.errors import NotFound
from threefs.smallpond.execution.events import RunRecord
from threefs.smallpond.io import filesystem
from threefs.smallpond.logical.dataset import DataSet, FileSet, ParquetDataSet, merge_datasets
from threefs.smallpond.logical.dataset.parquet import ParquetDataSet as _Parquet
from threefs.smallpond.logical.node import LogicalPlan, Node
from threefs.smallpond.logical.node.plan import walk

if TYPE_CHECKING:
    from threefs.smallpond.execution.job import Job


class ExecutionPlan:
    """What `Driver.run` and `run_plan` return."""

    def __init__(
        self, plan: LogicalPlan, outputs: Mapping[str, DataSet], final: DataSet | None, record: RunRecord
    ) -> None:
        self.logical_plan = plan
        self.named_outputs = dict(outputs)
        self.final_output = final
        self.record = record

    @property
    def successful(self) -> bool:
        return self.record.error is None

    def get_output(self, output_name: str) -> DataSet:
        if output_name not in self.named_outputs:
            known = ", ".join(self.named_outputs) or "none"
            raise NotFound(f"the plan has no output named {output_name!r}; it has: {known}")
        return self.named_outputs[output_name]

    def __str__(self) -> str:
        return f"{self.logical_plan}\n{len(self.record.tasks)} task attempts"


def run_plan(job: Job, plan: LogicalPlan) -> ExecutionPlan:
    """Run a plan as it is written; outputs with a name or a path are linked to where they were asked for."""
    named = [node for node in walk(plan.root_node) if node.output_name is not None or _has_path(node)]
    results = job.run(plan.ctx, [plan.root_node, *named], set())
    final = merge_datasets(results[0]) if results[0] else None
    outputs: dict[str, DataSet] = {}
    for node, datasets in zip(named, results[1:], strict=True):
        name = node.output_name or f"{node.name}_{node.id}"
        found = merge_datasets(datasets) if datasets else ParquetDataSet([])
        outputs[name] = _place(job, node, name, found)
    return ExecutionPlan(plan, outputs, final, job.runs[-1])


def _has_path(node: Node) -> bool:
    return node.output_path is not None and type(node).__name__ != "DataSinkNode"


def _place(job: Job, node: Node, name: str, found: DataSet) -> DataSet:
    """The files of a kept output, under the job's output folder or the node's path."""
    folder = os.path.join(node.output_path or job.config.options.get("output_path") or job.context.output_root, name)
    filesystem.make_directory(folder)
    if isinstance(found, FileSet):
        return FileSet([_link(path, folder, index) for index, path in enumerate(found.resolved_paths)])
    if isinstance(found, _Parquet) and all(part.single_whole_file for part in found.by_file()):
        return ParquetDataSet([_link(path, folder, index) for index, path in enumerate(found.resolved_paths)])
    return ParquetDataSet.create_from(found.to_arrow_table(), folder, name)


def _link(path: str, folder: str, index: int) -> str:
    target = os.path.join(folder, f"{index:05d}-{os.path.basename(path)}")
    filesystem.remove_path(target)
    filesystem.link_or_copy(path, target)
    return target
