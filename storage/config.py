"""Configuration of a storage daemon. Times are for one machine: seconds, not minutes."""

from __future__ import annotations

from pydantic import Field

from threefs.common.config import Address, Config, hot, local


class DiskConfig(Config):
    """One folder on one disk; each has an engine of its own."""

    path: str
    capacity_bytes: int = Field(0, ge=0)  # most that chunks may take; 0: what the file system has


class StorageConfig(Config):
    cluster_id: str = local("")  # empty: whatever mgmtd says
    node_id: int = local(ge=1)
    listen: Address = local("127.0.0.1:0")
    mgmtd: list[Address] = local(min_length=1)
    disks: list[DiskConfig] = local(min_length=1)
    disk_check_interval_s: float = hot(3.0, gt=0)
    forward_timeout_s: float = hot(60.0, gt=0)  # an update tries this long to reach the chain's tail
    attempt_timeout_s: float = hot(5.0, gt=0)  # one call to another storage daemon
    batches_in_flight_max: int = hot(256, ge=1)  # of reads, and of updates; beyond it callers are told to slow down
    sync_batch_chunks: int = hot(16, ge=1, le=256)
    sync_batch_bytes: int = hot(8 << 20, ge=1 << 16, le=64 << 20)
    sync_bytes_per_s: int = hot(0, ge=0)  # 0: as fast as it goes
    sync_retry_s: float = hot(0.5, gt=0)
    low_space_permille: int = hot(40, ge=0, le=1000)  # a disk with less free than this is said to be low
