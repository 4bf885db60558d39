"""What `KvEngine.transact` counts, for every engine."""

from __future__ import annotations

from functools import cache
from typing import Final

from prometheus_client import Counter, Histogram

ATTEMPTS: Final = Counter(
    "threefs_kv_attempts", "Attempts of transactions by how they ended: committed, or the error.", ["engine", "outcome"]
)
SECONDS: Final = Histogram(
    "threefs_kv_transaction_seconds",
    "Duration of transactions that committed, from the first attempt on.",
    ["engine"],
    buckets=(0.0002, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
)


@cache
def of_engine(name: str) -> tuple[Counter, Histogram]:
    """What counts and times the commits of one engine; kept, because finding them costs more than counting."""
    return ATTEMPTS.labels(name, "committed"), SECONDS.labels(name)
