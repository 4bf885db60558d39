"""What a storage daemon counts; read by whoever scrapes the daemon, and by tests."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SIZES = tuple(4096 << shift for shift in range(0, 15, 2))
_TIMES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

READ_BYTES = Counter("threefs_storage_read_bytes", "Bytes read for clients")
READ_OPS = Counter("threefs_storage_read_ops", "Elements of read batches")
READ_SECONDS = Histogram("threefs_storage_read_seconds", "Time of a read batch", buckets=_TIMES)
NOT_COMMITTED = Counter("threefs_storage_not_committed", "Reads sent to the tail because a newer version was pending")
WRITE_BYTES = Counter("threefs_storage_write_bytes", "Bytes of updates, on every replica")
WRITE_OPS = Counter("threefs_storage_write_ops", "Elements of update batches, on every replica")
WRITE_SECONDS = Histogram("threefs_storage_write_seconds", "Time of an update batch", buckets=_TIMES)
WRITE_BATCH_BYTES = Histogram("threefs_storage_write_batch_bytes", "Data of an update batch", buckets=_SIZES)
RETRIES_RECOGNISED = Counter("threefs_storage_retries_recognised", "Updates answered from the record of an earlier one")
FORWARD_RETRIES = Counter("threefs_storage_forward_retries", "Attempts to forward that had to be repeated")
ROLLED_FORWARD = Counter("threefs_storage_rolled_forward", "Pending states that were finished for a sender gone")
REPLICAS_DIFFER = Counter("threefs_storage_replicas_differ", "Updates after which two replicas had different content")
DAMAGED = Counter("threefs_storage_damaged_chunks", "Chunks whose bytes on disk differed from their checksum")
REPAIRED = Counter("threefs_storage_repaired_chunks", "Damaged chunks that were rewritten from a healthy replica")
REFUSED = Counter("threefs_storage_refused", "Elements refused", ["reason"])
SYNC_SENT = Counter("threefs_storage_sync_sent_chunks", "Chunks sent to a returning target")
SYNC_REMOVED = Counter("threefs_storage_sync_removed_chunks", "Chunks removed from a returning target")
SYNC_SKIPPED = Counter("threefs_storage_sync_skipped_chunks", "Chunks that a returning target had already")
SYNCS_DONE = Counter("threefs_storage_syncs_done", "Targets filled by this daemon")
DISKS_FAILED = Counter("threefs_storage_disks_failed", "Disks taken out of service")
TARGETS = Gauge("threefs_storage_targets", "Targets by what they report", ["state"])
IN_FLIGHT = Gauge("threefs_storage_in_flight", "Batches being carried out", ["kind"])
