"""What a mount counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ERRORS = Counter(
    "threefs_fuse_errors_total", "Requests answered with an error, by operation and errno", ["operation", "errno"]
)
SECONDS = Histogram(
    "threefs_fuse_request_seconds",
    "From taking a request to its answer, by operation",
    ["operation"],
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
IN_FLIGHT = Gauge("threefs_fuse_requests_in_flight", "Requests taken and not yet answered")
LOOKUPS = Gauge("threefs_fuse_direct_lookups", "Lookups that receiving threads asked and answered themselves")
OPEN_FILES = Gauge("threefs_fuse_open_files", "Descriptors that programs hold")
BYTES_READ = Counter("threefs_fuse_read_bytes_total", "Bytes given to the kernel by reads")
BYTES_WRITTEN = Counter("threefs_fuse_written_bytes_total", "Bytes taken from the kernel by writes")
