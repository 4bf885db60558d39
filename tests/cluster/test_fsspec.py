"""`3fs://` on a real cluster: fsspec's interface, and the libraries that read and write through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from threefs.cli.dev.cluster import DevCluster
from threefs.common.errors import UserError

pytestmark = pytest.mark.cluster


def test_files_by_url(
    start_cluster: Callable[..., DevCluster],
    fsck: Callable[[DevCluster], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fs = fsspec.filesystem("3fs")
    monkeypatch.delenv("THREEFS_MGMTD", raising=False)
    with pytest.raises(UserError, match="no cluster was named for 3fs://"):
        fs.ls("/")
    cluster = start_cluster()
    monkeypatch.setenv("THREEFS_MGMTD", ",".join(cluster.spec.mgmtd_addresses()))
    _names_and_content(fs)
    _libraries(fs)
    fsck(cluster)


def _names_and_content(fs: fsspec.AbstractFileSystem) -> None:
    content = bytes(range(256)) * 12_000  # twelve chunks
    fs.makedirs("3fs:///a/b")
    with pytest.raises(FileExistsError):
        fs.makedirs("/a/b")
    with fs.open("3fs://a/b/one", "wb") as file:
        assert file.write(content) == len(content)
    with fs.open("/a/b/one", "ab") as file:
        file.write(b"tail")
    with fs.open("/a/b/one", "rb") as file:
        assert file.read(1000) == content[:1000]
        assert file.seek(-4, 2) == len(content)
        assert file.read() == b"tail"
    assert fs.cat_file("/a/b/one", 256_000, 256_010) == (content + b"tail")[256_000:256_010]
    assert fs.info("/a/b/one")["size"] == len(content) + 4
    assert (fs.modified("/a/b/one") - fs.created("/a/b")).total_seconds() >= 0
    with fs.open("/a/b/one", "r+b") as file:
        file.write(b"head")
    fs.cp_file("/a/b/one", "/a/two")
    assert fs.cat_file("/a/two") == b"head" + content[4:] + b"tail"
    fs.mv("/a/two", "/a/three")
    assert fs.glob("3fs:///a/*") == ["/a/b", "/a/three"]
    assert [item["type"] for item in fs.ls("/a")] == ["directory", "file"]
    assert fs.find("/a") == ["/a/b/one", "/a/three"]
    with pytest.raises(FileNotFoundError, match="No such file or directory: four"):
        fs.open("/a/four")
    with pytest.raises(IsADirectoryError):
        fs.rm("/a")
    fs.rm("/a", recursive=True)
    assert not fs.exists("/a")


def _libraries(fs: fsspec.AbstractFileSystem) -> None:
    table = pa.table({"k": [1, 2, 3], "v": ["a", "b", "c"]})
    fs.mkdir("/tables")
    pq.write_table(table, "tables/x.parquet", filesystem=fs)
    assert pq.read_table("tables/x.parquet", filesystem=fs).equals(table)
    connection = duckdb.connect()
    connection.register_filesystem(fs)
    assert connection.sql("SELECT sum(k) FROM '3fs:///tables/*.parquet'").fetchall() == [(6,)]
    connection.execute("COPY (SELECT 7 AS k) TO '3fs:///tables/y.parquet' (FORMAT parquet)")
    assert pq.read_table("tables/y.parquet", filesystem=fs)["k"].to_pylist() == [7]
    connection.close()
