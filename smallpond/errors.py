"""The errors of smallpond: branches of the one tree in `common.errors`, named by whose fault it is.

    RequestError
    ├── PlanError        the query cannot be planned: columns, dimensions, arguments
    ├── InfeasibleTask   a task asks for more than any host has
    ├── QueryError       the engine rejected or failed a query; the message shows it and the place
    ├── UserCodeError    a function that the user passed in raised, or cannot be sent to a worker
    ├── TaskFailed       a task failed for good: which step, how often, why
    └── JobCancelled     the user interrupted the run

Every error says which step of the user's program it belongs to, and keeps its cause.
"""

from __future__ import annotations

from threefs.common.errors import BadRequest, RequestError


class PlanError(BadRequest):
    """The query cannot be planned as it is written."""


class InfeasibleTask(BadRequest):
    """A task asks for more cores, GPUs or memory than any host of the executor has."""


class QueryError(BadRequest):
    """DuckDB (or another engine) refused or failed a query."""


class UserCodeError(RequestError):
    """A function handed in by the user raised an exception, or could not be sent to a worker."""


class TaskFailed(RequestError):
    """A task failed for good. `__cause__` is the exception that its last attempt met."""


class JobCancelled(RequestError):
    """The run was interrupted before its end; finished results are kept and reused by the next run."""


SMALLPOND_ERRORS = (PlanError, InfeasibleTask, QueryError, UserCodeError, TaskFailed, JobCancelled)
