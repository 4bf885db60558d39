"""The names of tasks' surroundings where programs written for smallpond import them from."""

from threefs.smallpond.execution.runtime_ctx import RuntimeContext, TaskContext
from threefs.smallpond.logical.node import StreamOutput
from threefs.smallpond.logical.partition import PartitionInfo

__all__ = ["PartitionInfo", "RuntimeContext", "StreamOutput", "TaskContext"]
