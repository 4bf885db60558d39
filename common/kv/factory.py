"""Opens the store that a configuration names. Engines are imported only when asked for: two of them need a package."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from threefs.common.config import Config
from threefs.common.errors import UserError
from threefs.common.kv.errors import KvUnavailable
from threefs.common.kv.interface import KvEngine
from threefs.common.runtime.interface import Runtime

DEFAULT_PREFIX = "threefs/"
START_S: Final = 60.0  # what a store gets to come up with its daemon
RETRY_S: Final = 0.2

_log = logging.getLogger(__name__)


class KvConfig(Config):
    """The `[kv]` section of mgmtd's and meta's configuration."""

    engine: Literal["memory", "embedded", "fdb", "etcd"] = "embedded"
    path: str = ""  # embedded: the store's folder
    map_bytes_max: int = Field(64 * 2**30, ge=2**20)  # embedded: how far the map may grow
    endpoints: list[str] = Field(default_factory=list)  # etcd: host:port of every member
    cluster_file: str = ""  # fdb: empty for the client's default place
    prefix: str = ""  # etcd, fdb: put before every key, so that stores can share a cluster; default DEFAULT_PREFIX
    request_timeout_s: float = Field(2.0, gt=0)  # etcd: after this long another member is asked
    transaction_ops_max: int = Field(128, ge=8)  # etcd: what the members' --max-txn-ops says


async def await_engine(config: KvConfig, runtime: Runtime, wait_s: float = START_S) -> KvEngine:
    """`open_engine` for a daemon: members of etcd that start together with it, or still elect, are waited for."""
    deadline = runtime.now() + wait_s
    while True:
        try:
            return await open_engine(config, runtime)
        except KvUnavailable as exc:
            comes_by_itself = config.engine == "etcd" and not isinstance(exc.__cause__, ImportError)
            if not comes_by_itself or runtime.now() >= deadline:
                raise
            _log.info("waiting for the store: %s", exc)
        await runtime.sleep(RETRY_S)


async def open_engine(config: KvConfig, runtime: Runtime) -> KvEngine:
    """The opened store; UserError for a configuration that lacks a key, KvError for a store that does not open."""
    if config.engine == "memory":
        from threefs.common.kv.memory import MemoryEngine

        return MemoryEngine(runtime)
    if config.engine == "embedded":
        from threefs.common.kv.embedded import EmbeddedEngine

        return await EmbeddedEngine.open(runtime, _path(config), config.map_bytes_max)
    if config.engine == "etcd":
        from threefs.common.kv.etcd import EtcdEngine

        if not config.endpoints:
            raise UserError("kv.endpoints is not set", 'list the etcd members as "host:port" in the [kv] section')
        return await EtcdEngine.open(
            runtime,
            tuple(config.endpoints),
            (config.prefix or DEFAULT_PREFIX).encode(),
            request_timeout_s=config.request_timeout_s,
            ops_max=config.transaction_ops_max,
        )
    from threefs.common.kv.fdb import FdbEngine

    return await FdbEngine.open(runtime, config.cluster_file, (config.prefix or DEFAULT_PREFIX).encode())


def _path(config: KvConfig) -> Path:
    if not config.path:
        raise UserError("kv.path is not set", "name the folder of the embedded store in the [kv] section")
    return Path(config.path)
