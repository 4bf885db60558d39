"""kill -9 of every kind of daemon under a verified write load through the mount; nothing acknowledged is lost."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.load import Writer
from tests.mount.memory import wait_until

from threefs.cli.dev.bootstrap import all_serving
from threefs.cli.dev.cluster import DevCluster
from threefs.cli.entry import run_async
from threefs.cli.status import fetch_routing
from threefs.common.errors import UserError

pytestmark = [pytest.mark.cluster, pytest.mark.mount]

StartCluster = Callable[..., DevCluster]
PAUSE_S_MAX = 60.0  # what a client waits before it gives up; seconds less where machines are not busy


@contextmanager
def _writing(folder: Path, count: int = 2) -> Iterator[list[Writer]]:
    """Writers that have begun; afterwards they are stopped, none may have failed, and what they wrote is verified."""
    writers = [Writer(folder / f"load-{number}", number) for number in range(count)]
    for writer in writers:
        writer.start()
    wait_until(lambda: all(writer.writes > 20 for writer in writers), "the load begins")
    yield writers
    total = sum(writer.writes for writer in writers)
    pause = max(writer.finish().longest_pause_s for writer in writers)
    print(f"longest pause {pause:.2f} s in {total} writes")
    assert pause < PAUSE_S_MAX


def _kill(cluster: DevCluster, name: str) -> None:
    pid = cluster.process(cluster.spec.daemon(name)).pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: cluster.process(cluster.spec.daemon(name)).pid() is None, f"{name} is gone")


def _go_on(writers: list[Writer], more: int = 30) -> None:
    """Waits until every writer has acknowledged more writes."""
    before = [writer.writes for writer in writers]
    wait_until(lambda: all(w.writes > b + more for w, b in zip(writers, before, strict=True)), "writers go on")


def _serving(cluster: DevCluster) -> bool:
    try:
        return all_serving(run_async(fetch_routing(cluster.spec.mgmtd_addresses())))
    except UserError:  # mgmtd is still starting
        return False


def test_writers_outlive_any_daemon(start_cluster: StartCluster, fsck: Callable[[DevCluster], None]) -> None:
    cluster = start_cluster(mount=True)
    with _writing(Path(cluster.spec.mount)) as writers:
        for name in ("storage-1", "storage-3", "meta-1", "mgmtd-1"):
            _kill(cluster, name)
            if name.startswith("storage"):
                wait_until(lambda: not _serving(cluster), "the dead daemon is noticed")
                _go_on(writers)
            cluster.restart(name)
            wait_until(lambda: _serving(cluster), f"{name} is back")
            _go_on(writers)
    fsck(cluster)


def test_everything_killed_at_once_comes_back_with_what_was_synced(
    start_cluster: StartCluster, fsck: Callable[[DevCluster], None]
) -> None:
    cluster = start_cluster(mount=True)
    mount = Path(cluster.spec.mount)
    (mount / "tree" / "deep").mkdir(parents=True)
    contents = {f"tree/deep/{number}": os.urandom(number * 3000 + 1) for number in range(40)}
    for name, content in contents.items():
        with (mount / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for daemon in cluster.status():
        assert daemon.pid is not None
        os.kill(daemon.pid, signal.SIGKILL)
    wait_until(lambda: all(daemon.pid is None for daemon in cluster.status()), "all are gone")
    cluster.up()
    assert {name: (mount / name).read_bytes() for name in contents} == contents
    fsck(cluster)


def test_one_of_each_pair_and_an_etcd_member_may_die(
    start_cluster: StartCluster, fsck: Callable[[DevCluster], None]
) -> None:
    cluster = start_cluster(mount=True, kv="etcd", metas=2, mgmtds=2)
    mount = Path(cluster.spec.mount)
    with _writing(mount) as writers:
        for name in ("mgmtd-1", "meta-1", "etcd-0"):
            _kill(cluster, name)
            _go_on(writers)
            (mount / f"made-after-{name}").write_bytes(b"x" * 1000)
            cluster.restart(name)
        _kill(cluster, "mgmtd-2")
        _kill(cluster, "meta-2")
        _go_on(writers)
        (mount / "made-at-the-end").write_bytes(b"y" * 1000)
    assert len(list(mount.iterdir())) == 6
    for name in ("mgmtd-2", "meta-2"):
        cluster.restart(name)
    fsck(cluster)
