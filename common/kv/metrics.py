"""What `KvEngine.transact` counts, for every engine."""

from __future__ import annotations

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
