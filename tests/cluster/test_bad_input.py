"""What people and disks get wrong, with real processes: one sentence and a next step, and nothing harmed."""

import asyncio
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from tests.mount.memory import wait_until

from threefs.cli.dev.cluster import DevCluster
from threefs.cli.dev.configs import write_config
from threefs.cli.dev.processes import daemon_command
from threefs.client.connect import connect
from threefs.common.errors import NoSpace, ThreefsError
from threefs.common.net.frame import Kind, pack
from threefs.common.net.ports import free_ports
from threefs.proto import data_plane

pytestmark = pytest.mark.cluster

StartCluster = Callable[..., DevCluster]
Fsck = Callable[[DevCluster], None]


def _start(*arguments: str, token: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "threefs.cli.main", *arguments]
    environment = os.environ | {"THREEFS_TOKEN": token}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _said(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def _refused(process: subprocess.Popen[str], sentence: str) -> None:
    """It ended by itself, with this sentence, a next step and no traceback."""
    code, _, err = _said(process)
    assert code not in (0, 2), (sentence, code, err)
    assert "error: " in err, err
    assert "Traceback" not in err, err
    found, _, step = err.partition("error: ")[2].partition("\n")
    assert sentence in found, err
    assert step.strip() or "; " in found, f"no next step: {err}"


def test_truncated_and_damaged_frames(start_cluster: StartCluster, fsck: Fsck) -> None:
    """They end the connection they came on, and nothing else."""
    cluster = start_cluster()
    asyncio.run(_write(cluster, "/kept", b"kept" * 100_000))
    pids = [daemon.pid for daemon in cluster.status()]
    whole = pack(Kind.REQUEST, data_plane.WRITE, 1, b"d" * 200, 4096, timeout_ms=60_000) + b"x" * 4096
    bad = [whole[:30], whole[:100], whole[:-1], whole.replace(b"ddd", b"dDd", 1), b"\xff" + whole[1:], os.urandom(5000)]
    for daemon in cluster.spec.daemons:
        for sent in bad:
            assert _answer(daemon.port, sent) == b"", f"{daemon.name} answered to {sent[:40]!r}"
        log = cluster.process(daemon).log.read_text()
        assert "damaged frame from 127.0.0.1" in log
        assert "Traceback" not in log
    assert [daemon.pid for daemon in cluster.status()] == pids
    assert asyncio.run(_read(cluster, "/kept")) == b"kept" * 100_000
    fsck(cluster)


def _answer(port: int, sent: bytes) -> bytes:
    """What a daemon says before it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=100) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1000)
        except OSError as exc:  # it was closed while this end was still sending
            if exc.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
            return b""


def _config(cluster: DevCluster, name: str, place: Path, *changes: tuple[str, str]) -> str:
    """A copy of a daemon's configuration in which texts are replaced; a free port unless that is one of them."""
    text = (cluster.folder / name / "config.toml").read_text()
    port = cluster.spec.daemon(name).port
    kept = [line for line in text.splitlines() if not line.startswith(("metrics_listen", "grpc_listen"))]
    text = "\n".join(kept).replace(f'listen = "127.0.0.1:{port}"', f'listen = "127.0.0.1:{free_ports(1)[0]}"')
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    place.write_text(text)
    return str(place)


def test_a_daemon_that_must_not_start(start_cluster: StartCluster, fsck: Fsck, tmp_path: Path) -> None:
    cluster = start_cluster()
    disk, store = cluster.folder / "storage-1/disk", cluster.folder / "mgmtd-1/store"
    asyncio.run(_write(cluster, "/kept", b"kept" * 100_000))
    (tmp_path / "file").touch()
    used = f"127.0.0.1:{cluster.spec.daemon('mgmtd-1').port}"
    cases: list[tuple[str, list[tuple[str, str]], str]] = [
        ("mgmtd-1", [], f"{store}"),  # a second owner of a store
        ("storage-1", [], f"disk folder {disk} is in use"),
        ("storage-1", [(cluster.spec.cluster_id, "another")], f"belongs to cluster {cluster.spec.cluster_id}"),
        ("storage-1", [("node_id = 10001", "node_id = 10009")], "belongs to node 10001, this daemon is 10009"),
        ("storage-1", [(str(disk), str(tmp_path / "file/disk"))], "Not a directory"),
        ("storage-1", [(str(disk), "/sys/kernel/disk")], "disk folder /sys/kernel/disk"),
        ("mgmtd-1", [(str(store), "/sys/kernel/store")], "/sys/kernel/store"),
    ]
    started = []
    for number, (name, changes, sentence) in enumerate(cases):
        path = _config(cluster, name, tmp_path / f"{number}.toml", *changes)
        started.append((_start("run", name.rpartition("-")[0], "--config", path), sentence))
    fresh = tmp_path / "fresh"
    path = _config(cluster, "storage-1", tmp_path / "port.toml", (str(disk), str(fresh)))
    text = Path(path).read_text()
    listen = next(line for line in text.splitlines() if line.startswith("listen"))
    Path(path).write_text(text.replace(listen, f'listen = "{used}"').replace("10001", "10008"))
    started.append((_start("run", "storage", "--config", path), f"{used}"))
    try:
        for process, sentence in started:
            _refused(process, sentence)
    finally:
        for process, _ in started:
            process.kill()
            process.wait()
    assert asyncio.run(_read(cluster, "/kept")) == b"kept" * 100_000
    fsck(cluster)


@pytest.mark.mount
def test_names_tokens_and_mount_points(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = start_cluster(mount=True)
    folder, mount = str(cluster.folder), Path(cluster.spec.mount)
    with pytest.raises(OSError, match="File name too long"):
        (mount / ("x" * 256)).touch()
    (mount / ("x" * 255)).touch()
    _refused(_start("fs", "mkdir", "/" + "x" * 256, "--dir", folder), "a name of 256 bytes; 255 at most")

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    full = _config(cluster, "mount-1", tmp_path / "full.toml", (str(mount), str(tmp_path / "full")))
    taken = _config(cluster, "mount-1", tmp_path / "taken.toml")
    _refused(_start("run", "mount", "--config", full), "is not empty (1 entries, among them 'file')")
    _refused(_start("run", "mount", "--config", taken), "is already a mount point (fuse.3fs")
    assert os.listdir(mount) == ["x" * 255]

    code, good, err = _said(_start("user", "add", "1", "ann", "--root", "--admin", "--dir", folder))
    assert code == 0, err
    _, expired, _ = _said(_start("user", "add", "2", "bob", "--root", "--days", "0.000001", "--dir", folder))
    _authenticate(cluster)
    _refused(_start("fs", "ls", "/", "--dir", folder), "token")
    _refused(_start("fs", "ls", "/", "--dir", folder, token="wrong"), "token")
    _refused(_start("fs", "ls", "/", "--dir", folder, token=expired.strip()), "expired")
    code, out, err = _said(_start("fs", "ls", "/", "--dir", folder, token=good.strip()))
    assert code == 0, err
    assert "x" * 255 in out


def _authenticate(cluster: DevCluster) -> None:
    """Restarts the metadata daemon with `authenticate` on."""
    meta = cluster.spec.daemon("meta-1")
    process = cluster.process(meta)
    process.stop()
    path = write_config(cluster.folder, cluster.spec, meta)
    path.write_text("authenticate = true\n" + path.read_text())
    process.start(daemon_command("meta", path))


def test_a_chunk_that_rots_on_one_disk(start_cluster: StartCluster, fsck: Fsck) -> None:
    """Reads never give the wrong bytes; the damage is counted, and mended from another replica."""
    cluster = start_cluster()
    mark = os.urandom(64)
    content = mark * (600_000 // 64)
    asyncio.run(_write(cluster, "/precious", content))
    assert _spoil(cluster.folder / "storage-2/disk", mark)
    storages = [daemon.name for daemon in cluster.spec.of_role("storage")]
    chunks = -(-len(content) // cluster.spec.chunk_bytes)  # each has a replica on every daemon

    def mended() -> bool:
        assert asyncio.run(_read(cluster, "/precious", times=len(storages))) == content
        heads = (_counter(cluster, name, "threefs_storage_repaired_chunks_total") for name in storages)
        return sum(heads) >= chunks

    wait_until(mended, "every damaged chunk is mended")
    damaged = [_counter(cluster, name, "threefs_storage_damaged_chunks_total") for name in storages]
    assert damaged == [0, chunks, 0]
    assert "is damaged; asking the head" in cluster.process(cluster.spec.daemon("storage-2")).log.read_text()
    fsck(cluster)


def _spoil(disk: Path, mark: bytes) -> int:
    """Flips bits wherever the mark stands on a disk, in blocks that are in use and in those that were; how often."""
    count = 0
    for path in disk.glob("blocks-*"):
        text = path.read_bytes()
        if mark in text:
            count += text.count(mark)
            with path.open("r+b") as file:  # the daemon reads past the page cache: what is synced is what it finds
                file.write(text.replace(mark, bytes(byte ^ 0xFF for byte in mark)))
                file.flush()
                os.fsync(file.fileno())
    return count


def _counter(cluster: DevCluster, name: str, metric: str) -> float:
    page = f"http://127.0.0.1:{cluster.spec.daemon(name).metrics_port}/metrics"
    with urlopen(page, timeout=100) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(metric + " ")))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is a small file system of its own, for a storage disk."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up(small_disk: Path, start_cluster: StartCluster, fsck: Fsck) -> None:
    """Writers get ENOSPC, what was there stays, and space that is freed can be written again."""
    cluster = start_cluster(chains=1)
    disk = cluster.folder / "storage-1/disk"
    cluster.down()
    shutil.copytree(disk, small_disk, dirs_exist_ok=True)
    shutil.rmtree(disk)
    disk.symlink_to(small_disk)
    cluster.up()
    asyncio.run(_write(cluster, "/before", b"b" * 1_000_000))
    assert asyncio.run(_fill(cluster)) == errno.ENOSPC
    assert asyncio.run(_read(cluster, "/before")) == b"b" * 1_000_000
    asyncio.run(_remove(cluster, "/fill"))

    def fits() -> bool:
        try:
            asyncio.run(_write(cluster, "/after", b"a" * 4_000_000))
        except NoSpace:
            return False
        return True

    wait_until(fits, "freed space can be written")
    assert asyncio.run(_read(cluster, "/after")) == b"a" * 4_000_000
    fsck(cluster)


_FULL_MIB = 512  # far more than the small disk has


async def _fill(cluster: DevCluster) -> int:
    """Writes until it is told to stop; returns the error number."""
    async with connect(cluster.spec.mgmtd_addresses()) as files:
        await files.makedirs("/fill")
        for number in range(_FULL_MIB // 4):
            try:
                await files.write_bytes(f"/fill/{number}", b"f" * (4 << 20))
            except ThreefsError as exc:
                return exc.errno
    return 0


async def _remove(cluster: DevCluster, path: str) -> None:
    async with connect(cluster.spec.mgmtd_addresses()) as files:
        await files.rmtree(path)


async def _write(cluster: DevCluster, path: str, content: bytes) -> None:
    async with connect(cluster.spec.mgmtd_addresses()) as files:
        await files.write_bytes(path, content)


async def _read(cluster: DevCluster, path: str, *, times: int = 1) -> bytes:
    """What it holds; each of `times` reads must find the same. Replicas take turns: as many reads ask each of them."""
    async with connect(cluster.spec.mgmtd_addresses()) as files:
        contents = {await files.read_bytes(path) for _ in range(times)}
    (content,) = contents
    return content
