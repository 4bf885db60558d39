"""`3fs dev`: up, status, down, up again, two clusters side by side."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.mount.memory import wait_until

from threefs.cli.dev.cluster import DevCluster
from threefs.client.connect import connect

pytestmark = pytest.mark.cluster


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "threefs.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


async def _write(cluster: DevCluster, content: bytes) -> None:
    async with connect(cluster.spec.mgmtd_addresses()) as files:
        await files.makedirs("/a/b")
        await files.write_bytes("/a/b/file", content)


async def _read(cluster: DevCluster) -> bytes:
    async with connect(cluster.spec.mgmtd_addresses()) as files:
        return await files.read_bytes("/a/b/file")


def test_a_cluster_keeps_its_files_and_lives_beside_another(
    start_cluster: Callable[..., DevCluster], fsck: Callable[[DevCluster], None]
) -> None:
    first, second = start_cluster("first"), start_cluster("second")
    for number, cluster in enumerate((first, second)):
        asyncio.run(_write(cluster, bytes([number]) * 1_000_000))

    status = _command("status", "--dir", str(first.folder), "--json")
    assert status.returncode == 0, status.stderr
    found = json.loads(status.stdout)
    assert [chain["serving"] for chain in found["chains"]] == [3, 3, 3]
    assert found["healthy"] is True

    for listing in ("node", "target", "chain", "chain-table"):
        done = _command(listing, "list", "--dir", str(first.folder), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)

    daemons = _command("dev", "status", "--dir", str(first.folder), "--json")
    listed = json.loads(daemons.stdout)
    assert [daemon["role"] for daemon in listed] == ["mgmtd", "meta", "storage", "storage", "storage"]
    assert all(daemon["pid"] and daemon["address"] and daemon["node_id"] for daemon in listed)

    assert _command("dev", "down", "--dir", str(first.folder)).returncode == 0
    assert all(daemon.pid is None for daemon in first.status())
    assert asyncio.run(_read(second)) == bytes([1]) * 1_000_000
    first.up()
    assert asyncio.run(_read(first)) == bytes([0]) * 1_000_000
    fsck(first)
    fsck(second)


def test_a_lost_disk_is_replaced(start_cluster: Callable[..., DevCluster], fsck: Callable[[DevCluster], None]) -> None:
    cluster = start_cluster()
    asyncio.run(_write(cluster, b"kept" * 200_000))
    daemon = cluster.spec.daemon("storage-2")
    cluster.process(daemon).stop()
    shutil.rmtree(cluster.folder / "storage-2" / "disk")
    cluster.restart("storage-2")
    where = ("--dir", str(cluster.folder))
    replace = f"3fs disk replace {daemon.node_id} 0"
    wait_until(lambda: replace in _command("status", *where).stderr, "the loss is known")
    assert "repeat with --yes" in _command(*replace.split()[1:], *where).stderr
    done = _command(*replace.split()[1:], *where, "--yes")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: _command("status", *where).returncode == 0, "all targets serve again")
    assert "has all its 3 targets" in _command(*replace.split()[1:], *where, "--yes").stderr
    listed = json.loads(_command("disk", "list", *where, "--json").stdout)
    assert [(disk["targets"], disk["serving"]) for disk in listed] == [(3, 3)] * 3
    assert asyncio.run(_read(cluster)) == b"kept" * 200_000
    fsck(cluster)


def test_what_a_person_gets_wrong_is_one_sentence_and_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    cases = [
        (("status",), "no cluster was named"),
        (("status", "--mgmtd", "here"), "'here' is no address of mgmtd"),
        (("status", "--mgmtd", "127.0.0.1:1"), "no mgmtd answers at 127.0.0.1:1"),
        (("dev", "up", "--dir", str(tmp_path / "used")), "is not empty"),
        (("dev", "down", "--dir", str(tmp_path / "none")), "holds no cluster"),
        (("dev", "up", "--dir", str(tmp_path / "x"), "--metas", "2"), "the embedded store has one owner"),
        (("dev", "up", "--dir", str(tmp_path / "x"), "--replicas", "5"), "5 replicas need 5 storage daemons"),
        (("dev", "up", "--dir", "/proc/none"), "cannot use /proc/none"),
        (("run", "mgmtd", "--config", str(tmp_path / "none.toml")), "cannot read configuration"),
        (("run", "nothing", "--config", "x"), "unknown role 'nothing'"),
        (("graysort", "validate", str(tmp_path / "none")), "No such file or directory"),
    ]
    for arguments, sentence in cases:
        done = _command(*arguments)
        assert done.returncode not in (0, 2), (arguments, done.stderr)
        assert sentence in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("node_id = 1\nnode_idd = 2\n", "config.toml:2: unknown key 'node_idd'"),
        ('node_id = "one"\n', "config.toml:1: node_id = 'one': input should be a valid integer"),
        ("node_id = 1\n\n[lease]\nlease_s = -1.0\n", "config.toml:4: lease.lease_s = -1.0"),
        ("node_id = \n", "config.toml is no valid TOML"),
        ('listen = "here"\n', "config.toml:1: listen = 'here': an address is \"host:port\""),
        ("newborn_s = 0.5\n", "newborn_s must be at least half of failure_timeout_s"),
    ],
)
def test_a_wrong_configuration_is_named_by_file_and_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    done = _command("run", "mgmtd", "--config", str(path))
    assert done.returncode == 1
    assert sentence in done.stderr
