"""Configuration of a mount. `MountConfig` is read from its TOML file; every time is in seconds."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from threefs.common.config import Address, Config, hot, local


class CacheConfig(Config):
    """What the kernel may remember without asking. Several mounts see each other's changes after these times; a file
    that is opened is always seen as it was when it was last closed."""

    entry_s: float = Field(1.0, ge=0, le=3600)
    attr_s: float = Field(1.0, ge=0, le=3600)
    negative_s: float = Field(0.0, ge=0, le=3600)  # for names that do not exist
    read_ahead_kib: int = Field(4096, ge=0, le=65536)  # of the kernel, for sequential readers


class WriteConfig(Config):
    dirty_bytes_max: int = Field(32 << 20, ge=1 << 20, le=4 << 30)
    batches_in_flight_max: int = Field(8, ge=1, le=1024)  # of up to 4 MiB each
    write_back_s: float = Field(1.0, gt=0, le=60)  # what waits longer goes to storage unasked
    report_s: float = Field(5.0, gt=0, le=600)  # between reports of lengths of files that are being written


class MountConfig(Config):
    cluster_id: str = local("")  # empty: whichever cluster mgmtd says it is
    mountpoint: Path = local(strict=False)
    mgmtd: list[Address] = local(min_length=1)  # "host:port"
    token: str = local("")  # sent with every metadata request if the cluster asks for authentication
    allow_other: bool = True  # other users than the one who mounts
    read_only: bool = False
    receive_threads: int = Field(4, ge=1, le=16)
    max_transfer_bytes: int = Field(1 << 20, ge=4096, le=1 << 20)  # of one read or write request of the kernel
    max_background: int = Field(64, ge=4, le=65535)
    group_cache_s: float = hot(1.0, ge=0, le=60)  # how long a process's supplementary groups are believed
    meta_timeout_s: float = Field(60.0, gt=0, le=3600)
    interrupt_after_s: float = hot(3.0, ge=0, le=3600)  # a signal ends a read that has waited for longer
    cache: CacheConfig = CacheConfig()
    write: WriteConfig = WriteConfig()
