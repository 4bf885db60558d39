"""`3fs://`: a cluster's files for all that speaks fsspec (pandas, pyarrow, DuckDB, Polars, Ray), without a mount.

    fsspec.open("3fs:///a/b.parquet")                          # THREEFS_MGMTD names the cluster
    fsspec.filesystem("3fs", mgmtd="10.0.0.1:9000").ls("/a")

fsspec finds `ThreeFileSystem` through the package's entry point. One rule: a process has one connection a cluster, made
at the first use and never inherited through fork; every call waits for it on a thread of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import functools
import io
import os
import shutil
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop
from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path

from threefs.client.connect import connect
from threefs.client.file import OpenFile
from threefs.client.filesystem import Entry, FileSystem
from threefs.common.errors import ThreefsError, UserError, to_errno
from threefs.common.files import FileType, Inode

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

T = TypeVar("T")
BUFFER_BYTES = 1 << 20  # small reads and writes are gathered; larger ones pass the buffer by
CLOSE_S = 30.0
_TYPES = {FileType.FILE: "file", FileType.DIRECTORY: "directory", FileType.SYMLINK: "link"}
_FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


class _Link:
    """A connection on an event loop of its own."""

    def __init__(self, mgmtd: str) -> None:
        self._mgmtd = mgmtd.split(",")
        started: Future[FileSystem] = Future()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="3fs-fsspec", daemon=True)
        self._thread.start()
        self.files = started.result()
        atexit.register(self.close)

    def _serve(self, started: Future[FileSystem]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._live(started))

    async def _live(self, started: Future[FileSystem]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with connect(self._mgmtd, description="fsspec") as files:
                started.set_result(files)
                await self._stop.wait()
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a call; errors are the OSErrors that a file system raises."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except ThreefsError as exc:
            raise OSError(to_errno(exc), str(exc)) from exc

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_S)


@functools.cache
def _link(mgmtd: str, pid: int) -> _Link:
    return _Link(mgmtd)


class ThreeFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """fsspec's interface over a cluster. `mgmtd`: "host:port[,host:port…]", by default what THREEFS_MGMTD says."""

    protocol = "3fs"
    root_marker = "/"

    def __init__(self, mgmtd: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._mgmtd = mgmtd

    @property
    def _cluster(self) -> _Link:
        mgmtd = self._mgmtd or os.environ.get("THREEFS_MGMTD", "")
        if not mgmtd:
            raise UserError("no cluster was named for 3fs://", "set THREEFS_MGMTD=HOST:PORT, or pass mgmtd=…")
        return _link(mgmtd, os.getpid())

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """`3fs:///a/b` and `3fs://a/b` both are /a/b."""
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return "/" + stringify_path(path).removeprefix("3fs://").strip("/")

    # ---- looking ----

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        plain, cluster = self._strip_protocol(path), self._cluster
        return _info(plain, cluster.run(cluster.files.stat(plain)))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        plain, cluster = self._strip_protocol(path), self._cluster
        found = [self.info(plain)]
        if found[0]["type"] == "directory":
            entries: list[Entry] = cluster.run(cluster.files.scandir(plain))
            found = [_info(f"{plain.rstrip('/')}/{entry.name}", entry.inode) for entry in entries]
        return found if detail else [item["name"] for item in found]

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def created(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.info(path)["ctime"], UTC)

    # ---- changing ----

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        if create_parents:
            self.makedirs(path)
        else:
            self._cluster.run(self._cluster.files.mkdir(self._strip_protocol(path)))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        plain = self._strip_protocol(path)
        if not exist_ok and self.exists(plain):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), plain)
        self._cluster.run(self._cluster.files.makedirs(plain))

    def rmdir(self, path: str) -> None:
        self._cluster.run(self._cluster.files.rmdir(self._strip_protocol(path)))

    def rm_file(self, path: str) -> None:
        self._cluster.run(self._cluster.files.remove(self._strip_protocol(path)))

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        for one in path if isinstance(path, list) else [path]:
            if not self.isdir(one):
                self.rm_file(one)
            elif recursive:
                self._cluster.run(self._cluster.files.rmtree(self._strip_protocol(one)))
            else:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), one)

    def mv(self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        """A rename: at once, whatever the size."""
        old, new = self._strip_protocol(path1), self._strip_protocol(path2)
        self._cluster.run(self._cluster.files.rename(old, new))

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        with self.open(path1, "rb") as source, self.open(path2, "wb") as target:
            shutil.copyfileobj(source, target, 4 * BUFFER_BYTES)

    # ---- files ----

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        kind = mode.replace("b", "")
        flags = os.O_RDWR if kind == "r+" else _FLAGS.get(kind)
        if flags is None:
            raise ValueError(f"mode {mode!r} is none of rb, r+b, wb, ab, xb")
        cluster = self._cluster
        raw = _Raw(cluster, cluster.run(cluster.files.open(self._strip_protocol(path), flags)))
        if kind == "a":
            raw.seek(0, os.SEEK_END)
        size = block_size if isinstance(block_size, int) else BUFFER_BYTES
        if kind == "r+":
            return io.BufferedRandom(raw, size)
        return io.BufferedReader(raw, size) if kind == "r" else io.BufferedWriter(raw, size)


class _Raw(io.RawIOBase):
    """An open file of a cluster as Python's unbuffered file."""

    def __init__(self, cluster: _Link, file: OpenFile) -> None:
        self._cluster, self._file, self._at = cluster, file, 0

    def readable(self) -> bool:
        return self._file.readable

    def writable(self) -> bool:
        return self._file.writable

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = self._cluster.run(self._file.pread(self._at, [memoryview(buffer).cast("B")]))
        self._at += count
        return count

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        self._cluster.run(self._file.pwrite(self._at, view))
        self._at += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.attributes().length}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, f"position {base + offset} is before the start of the file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None, /) -> int:
        length = self._at if size is None else size
        self._cluster.run(self._file.truncate(length))
        return length

    def close(self) -> None:
        """What was written is stored, and others see it."""
        if not self.closed:
            try:
                self._cluster.run(self._file.close())
            finally:
                super().close()


def _info(path: str, inode: Inode) -> dict[str, Any]:
    return {
        "name": path,
        "size": inode.length if inode.type is FileType.FILE else 0,
        "type": _TYPES.get(inode.type, "other"),
        "ino": int(inode.id),
        "mode": inode.st_mode,
        "uid": inode.uid,
        "gid": inode.gid,
        "nlink": inode.nlink,
        "mtime": inode.mtime_us / 1e6,
        "ctime": inode.ctime_us / 1e6,
    }
