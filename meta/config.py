"""Configuration of a metadata daemon. Defaults suit one machine: seconds, where a data centre would take minutes."""

from __future__ import annotations

from pydantic import Field

from threefs.common.config import Address, Config, hot, local
from threefs.common.kv.factory import KvConfig


class RootConfig(Config):
    """The layout of the root directory when the store is first used; everything below inherits it."""

    chain_table: int = Field(1, ge=1)
    chunk_bytes: int = Field(1 << 20, ge=64 << 10, le=64 << 20)
    stripe: int = Field(16, ge=1, le=1024)


class GarbageConfig(Config):
    """When and how fast what was removed is freed."""

    scan_interval_s: float = hot(1.0, gt=0)
    file_delay_s: float = hot(10.0, ge=0)  # for readers elsewhere that still have the file open
    retry_s: float = hot(10.0, gt=0)  # before a file that is still open, or whose chain is down, is looked at again
    concurrency: int = Field(32, ge=1, le=1024)  # inodes that are freed at a time
    batch: int = hot(256, ge=1, le=4096)  # entries taken from a shard at a time


class SessionConfig(Config):
    """Write sessions of clients that are gone."""

    scan_interval_s: float = hot(30.0, gt=0)
    age_s_min: float = hot(60.0, ge=0)  # younger ones are left: their client may not have reached mgmtd yet


class MetaTuning(Config):
    """Limits and periods of requests."""

    list_limit: int = hot(512, ge=1, le=4096)
    list_limit_max: int = hot(4096, ge=1, le=65536)
    transaction_s: float = hot(10.0, gt=0)
    request_record_s: float = hot(600.0, ge=60)  # how long a repeated request is recognised
    request_clean_s: float = hot(10.0, gt=0)
    statfs_cache_s: float = hot(5.0, ge=0)
    user_cache_s: float = hot(5.0, ge=0)


class ServiceConfig(Config):
    """What `MetaService` and its background tasks need, whatever runs them."""

    authenticate: bool = hot(False)  # on: who asks is decided by the token alone
    root: RootConfig = RootConfig()
    garbage: GarbageConfig = GarbageConfig()
    sessions: SessionConfig = SessionConfig()
    tuning: MetaTuning = MetaTuning()


class MetaConfig(ServiceConfig):
    """The whole file of a daemon."""

    node_id: int = local(50, ge=1)
    cluster_id: str = local("")  # empty: whichever cluster mgmtd says it is
    listen: Address = local("127.0.0.1:9001")
    mgmtd: list[Address] = local(["127.0.0.1:9000"], min_length=1)  # "host:port" of every mgmtd
    kv: KvConfig = local(KvConfig())
