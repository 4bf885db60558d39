"""Metrics of the metadata daemon."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Histogram

OPERATIONS = Counter("threefs_meta_operations", "Requests answered", ["operation", "result"])
OPERATION_S = Histogram(
    "threefs_meta_operation_seconds",
    "Time from request to answer",
    ["operation"],
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10),
)
GARBAGE_INODES = Counter("threefs_meta_garbage_inodes", "Inodes that the collector has freed")
GARBAGE_CHUNKS = Counter("threefs_meta_garbage_chunks", "Chunks that the collector has removed")
GARBAGE_FAILURES = Counter("threefs_meta_garbage_failures", "Inodes that could not be freed and were put back")
SESSIONS_PRUNED = Counter("threefs_meta_sessions_pruned", "Write sessions ended for clients that are gone")


@cache
def of_operation(name: str, result: str) -> tuple[Counter, Histogram]:
    """The counter and the histogram of one kind of answer; kept, because finding them costs more than counting."""
    return OPERATIONS.labels(name, result), OPERATION_S.labels(name)
