"""What a task knows about the job around it. User code gets it as `runtime_ctx`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import datetime

from threefs.smallpond.logical.partition import TOPLEVEL, Partition


@dataclass(frozen=True)
class RuntimeContext:
    """A job: who it is and where its files are. Plain values only: it travels with every bundle of tasks."""

    job_id: str
    job_time: datetime
    data_root: str
    num_executors: int = 0
    random_seed: int = 0
    fault_inject_prob: float = 0.0
    enforce_memory_limit: bool = False
    env_overrides: dict[str, str] = field(default_factory=dict)

    @property
    def job_root_dirname(self) -> str:
        return f"{self.job_time:%Y-%m-%d-%H-%M-%S}.{self.job_id}"

    @property
    def job_root(self) -> str:
        return os.path.join(os.path.abspath(self.data_root), self.job_root_dirname)

    @property
    def config_root(self) -> str:
        return os.path.join(self.job_root, "config")

    @property
    def queue_root(self) -> str:
        return os.path.join(self.job_root, "queue")

    @property
    def output_root(self) -> str:
        return os.path.join(self.job_root, "output")

    @property
    def staging_root(self) -> str:
        return os.path.join(self.job_root, "staging")

    @property
    def temp_root(self) -> str:
        return os.path.join(self.job_root, "temp")

    @property
    def log_root(self) -> str:
        return os.path.join(self.job_root, "log")

    @property
    def job_status_path(self) -> str:
        return os.path.join(self.log_root, ".STATUS")

    @property
    def results_root(self) -> str:
        """Results by content, shared by all jobs of this data root."""
        return os.path.join(os.path.abspath(self.data_root), "results")

    def initialize(self) -> None:
        for path in (self.queue_root, self.output_root, self.staging_root, self.temp_root, self.log_root):
            os.makedirs(path, exist_ok=True)
        os.makedirs(self.results_root, exist_ok=True)


@dataclass(frozen=True)
class TaskContext(RuntimeContext):
    """A task of the job: where it stands, what it may use, where it writes."""

    run_id: str = ""  # of this run of the plan
    stage_key: str = ""
    step: str = ""  # for people: the node and the line that made it
    task_index: int = 0
    attempt: int = 0
    partition: Partition = TOPLEVEL
    cpu_limit: int = 1
    gpu_limit: float = 0.0
    memory_limit: int = 0
    output_dir: str = ""  # files of the result go here, under names that begin with `file_prefix`
    file_prefix: str = ""

    @property
    def seed(self) -> int:
        """Differs from task to task, the same for every attempt."""
        return (self.random_seed * 1_000_003 + int(self.stage_key[:12] or "0", 16) + self.task_index) % (1 << 48)

    @property
    def partition_infos(self) -> Partition:
        return self.partition

    @property
    def temp_dir(self) -> str:
        return os.path.join(self.temp_root, self.file_prefix)

    def output_file(self, suffix: str) -> str:
        os.makedirs(self.output_dir, exist_ok=True)
        return os.path.join(self.output_dir, f"{self.file_prefix}{suffix}")

    def metadata(self) -> dict[str, str]:
        """What every parquet file of the task says about itself."""
        found = {"task": f"{self.stage_key[:12]}.{self.task_index}", "step": self.step, "job": self.job_id}
        found |= {info.dimension: str(info.index) for info in self.partition}
        return {f"SMALLPOND:{name}": value for name, value in found.items()}

    def with_extra_partition(self, partition: Partition) -> TaskContext:
        return replace(self, partition=partition)
