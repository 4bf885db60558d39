"""What the storage client of a process counts."""

from __future__ import annotations

from prometheus_client import Counter

READ_BYTES = Counter("threefs_client_storage_read_bytes", "Bytes read from storage targets")
READ_OPS = Counter("threefs_client_storage_read_ops", "Elements read")
WRITE_BYTES = Counter("threefs_client_storage_write_bytes", "Bytes written to storage targets")
WRITE_OPS = Counter("threefs_client_storage_write_ops", "Elements written")
BATCHES = Counter("threefs_client_storage_batches", "Frames sent to storage daemons", ["kind"])
READ_BATCHES = BATCHES.labels(kind="read")  # to look one up costs more than to count
RETRIES = Counter("threefs_client_storage_retries", "Elements sent again", ["kind", "reason"])
CHECKSUM_MISMATCHES = Counter("threefs_client_storage_checksum_mismatches", "Replies whose data had another CRC32C")
