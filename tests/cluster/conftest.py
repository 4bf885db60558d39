"""Real clusters: every daemon a process, started and stopped by the same code as `3fs dev`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from threefs.cli.dev.cluster import DevCluster, open_or_create
from threefs.cli.fsck import check_cluster
from threefs.fuse.mountpoint import mounted_at

DEFAULTS: dict[str, Any] = {
    "kv": "embedded",
    "mgmtds": 1,
    "metas": 1,
    "storages": 3,
    "replicas": 3,
    "chains": 3,
    "mount": "",
    "chunk_bytes": 256 << 10,
}

StartCluster = Callable[..., DevCluster]


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[StartCluster]:
    """Starts clusters (`start_cluster("name", kv="etcd", mount=True)`); all end with the test, without a mount left."""
    running: list[DevCluster] = []

    def start(name: str = "c", *, mount: bool = False, **wanted: Any) -> DevCluster:
        options = DEFAULTS | wanted | {"mount": str(tmp_path / f"{name}-mount") if mount else ""}
        cluster = open_or_create(tmp_path / name, **options)
        running.append(cluster)
        cluster.up()
        return cluster

    yield start
    for cluster in running:
        cluster.down()
        assert all(daemon.pid is None for daemon in cluster.status())
        assert not cluster.spec.mount or mounted_at(cluster.spec.mount) is None


@pytest.fixture
def fsck() -> Callable[[DevCluster], None]:
    """Every test that wrote a file system ends with it."""

    def check(cluster: DevCluster) -> None:
        assert check_cluster(cluster.folder, "", False) == 0

    return check
