"""The mount of a whole cluster: programs, POSIX behaviour, several mounts, its own death."""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.mount import programs
from tests.mount.memory import wait_until
from tests.mount.posix_machine import compare_with_local

from threefs.cli.dev.cluster import DevCluster
from threefs.fuse.mountpoint import mounted_at

pytestmark = [pytest.mark.cluster, pytest.mark.mount]

StartCluster = Callable[..., DevCluster]
Fsck = Callable[[DevCluster], None]


@contextmanager
def another_mount(cluster: DevCluster) -> Iterator[Path]:
    """One more mount daemon, where other users can reach it (unlike a test's own folder)."""
    with tempfile.TemporaryDirectory(prefix="3fs-mount-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "mnt"
        path.mkdir()
        config = folder / "mount.toml"
        config.write_text(f'mountpoint = "{path}"\nmgmtd = {json.dumps(cluster.spec.mgmtd_addresses())}\n')
        with (folder / "log").open("w") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "threefs.cli.main", "run", "mount", "--config", str(config)],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: mounted_at(str(path)) is not None or daemon.poll() is not None, "mounting")
            assert daemon.poll() is None, (folder / "log").read_text()
            yield path
        finally:
            daemon.terminate()
            assert daemon.wait(100) == 0, (folder / "log").read_text()
            assert mounted_at(str(path)) is None


def test_programs_and_a_restart(start_cluster: StartCluster, fsck: Fsck, tmp_path: Path) -> None:
    cluster = start_cluster(mount=True)
    mounted = Path(cluster.spec.mount)
    source = Path(email.__file__).parent
    tree = programs.copy_tree(source, mounted)
    programs.git_clone(programs.make_repository(tmp_path, files=20), mounted)
    for journal in ("delete", "wal"):
        programs.sqlite(mounted, journal=journal, rows=200)
    programs.dd_with_fsync(mounted, mib=3)
    programs.fio_verify(mounted, 1, engine="psync", direct=False)
    programs.fio_verify(mounted, 1, engine="libaio", direct=True)
    cluster.down()
    cluster.up()
    assert programs.run("diff", "-r", "--no-dereference", source, tree) == ""
    programs.run("git", "fsck", "--strict", cwd=mounted / "clone")
    programs.remove_tree(tree)
    fsck(cluster)


def test_same_as_a_local_folder(start_cluster: StartCluster, fsck: Fsck) -> None:
    cluster = start_cluster()
    with another_mount(cluster) as mounted:
        mounted.chmod(0o777)
        compare_with_local(mounted, examples=20, steps=30)
    fsck(cluster)


def test_two_mounts_see_what_the_other_closed(start_cluster: StartCluster, fsck: Fsck) -> None:
    cluster = start_cluster(mount=True)
    ours = Path(cluster.spec.mount)
    with another_mount(cluster) as theirs:
        for number in range(20):
            content = os.urandom(1000 * number + 1)
            writer, reader = (ours, theirs) if number % 2 else (theirs, ours)
            (writer / "file").write_bytes(content)
            assert (reader / "file").read_bytes() == content
        (ours / "file").unlink()
        wait_until(lambda: not (theirs / "file").exists(), "the name to go at the other mount")
        with (ours / "log").open("ab", buffering=0) as log:
            for number in range(5):
                log.write(b"%d\n" % number)
                os.fsync(log.fileno())
                assert (theirs / "log").read_bytes().count(b"\n") == number + 1
    fsck(cluster)


def test_mount_that_was_killed_comes_back(start_cluster: StartCluster, fsck: Fsck) -> None:
    cluster = start_cluster(mount=True)
    mounted = Path(cluster.spec.mount)
    with (mounted / "synced").open("wb") as file:
        file.write(b"kept" * 1000)
        os.fsync(file.fileno())
    daemon = next(daemon for daemon in cluster.status() if daemon.role == "mount")
    assert daemon.pid is not None
    os.kill(daemon.pid, 9)
    cluster.restart(daemon.name)
    assert (mounted / "synced").read_bytes() == b"kept" * 1000
    (mounted / "after").write_bytes(b"works")
    fsck(cluster)


@pytest.mark.proof
@pytest.mark.parametrize("source", [Path("/usr/lib/python3"), Path("/usr/share")], ids=["python3", "share"])
def test_whole_trees(start_cluster: StartCluster, fsck: Fsck, source: Path) -> None:
    cluster = start_cluster(mount=True)
    mounted = Path(cluster.spec.mount)
    tree = programs.copy_tree(source, mounted)
    programs.tar_in_and_out(tree, mounted)
    cluster.down()
    cluster.up()
    assert programs.run("diff", "-r", "--no-dereference", source, tree) == ""
    programs.remove_tree(tree)
    fsck(cluster)


@pytest.mark.proof
def test_same_as_a_local_folder_for_long(start_cluster: StartCluster, fsck: Fsck) -> None:
    cluster = start_cluster()
    with another_mount(cluster) as mounted:
        mounted.chmod(0o777)
        compare_with_local(mounted, examples=200, steps=50)
    fsck(cluster)
