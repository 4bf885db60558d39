"""What a disk may hold after a power loss, from a recording of a process's writes and syncs.

A test runs its workload with `record`, loads the log and walks through it with `Disk`. At any point, `Disk.image`
builds one folder that a power loss right there may leave: everything that was synced, and of the rest any part; a
write that was not synced is kept, dropped or torn, by sectors of 512 bytes. A file whose folder was not synced since
it was created may be missing. The workload says what it was promised with `mark`, read back as events of kind MARK.
"""

from __future__ import annotations

import ctypes
import enum
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
PAGE = 4096
SECTOR = 512

_EVENT = struct.Struct("=IIIIQQ")
_CREATED, _DURABLE, _FOLDER = 1, 2, 4


class Op(enum.IntEnum):
    """As in recorder.c."""

    OPEN = 1
    WRITE = 2
    SYNC = 3
    RESIZE = 4
    ALLOCATE = 5
    PUNCH = 6
    UNLINK = 7
    RENAME = 8
    MKDIR = 9
    MARK = 10


@dataclass(frozen=True, slots=True)
class Event:
    op: Op
    file: int
    flags: int
    offset: int
    length: int
    payload: bytes

    @property
    def text(self) -> str:
        return self.payload.decode()

    @property
    def is_durable(self) -> bool:
        """An O_DSYNC write."""
        return bool(self.flags & _DURABLE)


def build(folder: Path) -> Path:
    """Compiles the recorder into `folder`."""
    library = folder / "recorder.so"
    source = HERE / "recorder.c"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        options = ["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wno-format-truncation", "-Werror", "-pthread"]
        fresh = folder / f"recorder.{os.getpid()}.so"
        subprocess.run(["gcc", *options, "-o", fresh, source, "-ldl"], check=True)
        fresh.rename(library)
    return library


def record(
    script: Path, arguments: list[str], *, root: Path, log: Path, library: Path, environment: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """Runs `python script arguments` with everything below `root` recorded in `log`. The script may import `tests`."""
    extra = {"LD_PRELOAD": str(library), "RECORDER_ROOT": str(root), "RECORDER_LOG": str(log)}
    extra["PYTHONPATH"] = str(HERE.parents[2])
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), *arguments],
        env={**os.environ, **extra, **environment},
        capture_output=True,
        text=True,
        timeout=250,
    )


def marker() -> Callable[[str], None]:
    """For workloads: a function that puts a text into the recording (does nothing without the recorder)."""
    call = getattr(ctypes.CDLL(None), "recorder_mark", None)
    if call is None:
        return lambda text: None
    call.argtypes = [ctypes.c_char_p]
    call.restype = None
    return lambda text: call(text.encode())


def load(log: Path) -> list[Event]:
    raw = log.read_bytes()
    return list(_events(raw))


def _events(raw: bytes) -> Iterator[Event]:
    at = 0
    while at < len(raw):
        op, file, flags, payload_bytes, offset, length = _EVENT.unpack_from(raw, at)
        at += _EVENT.size
        yield Event(Op(op), file, flags, offset, length, raw[at : at + payload_bytes])
        at += payload_bytes


@dataclass
class File:
    """Synced content in pages (an absent page is zeros), and what came after the last sync, in order."""

    name: str
    is_folder: bool = False
    is_named: bool = True  # its folder was synced since it was created
    pages: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    unsynced: list[Event] = field(default_factory=list)

    def sync(self) -> None:
        for event in self.unsynced:
            self.apply(event)
        self.unsynced.clear()

    def apply(self, event: Event) -> None:
        if event.op is Op.RESIZE:
            self._resize(event.length)
        elif event.op is Op.PUNCH:
            self._put(event.offset, bytes(event.length), grow=False)
        elif event.op is Op.ALLOCATE:
            self.size = max(self.size, event.offset + event.length)
        else:
            self._put(event.offset, event.payload, grow=True)

    def _resize(self, size: int) -> None:
        if size < self.size:
            self.pages = {page: data for page, data in self.pages.items() if page * PAGE < size}
            if size % PAGE and size // PAGE in self.pages:
                self.pages[size // PAGE] = self.pages[size // PAGE][: size % PAGE].ljust(PAGE, b"\0")
        self.size = size

    def _put(self, offset: int, data: bytes, *, grow: bool) -> None:
        done = 0
        while done < len(data):
            page, within = divmod(offset + done, PAGE)
            piece = data[done : done + PAGE - within]
            old = self.pages.get(page, bytes(PAGE)) if len(piece) < PAGE else b""
            self.pages[page] = old[:within] + piece + old[within + len(piece) :] if old else piece
            done += len(piece)
        if grow:
            self.size = max(self.size, offset + len(data))

    def copy(self) -> File:
        return File(self.name, self.is_folder, self.is_named, dict(self.pages), self.size, [])


class Disk:
    """The disk under a recording, up to the events that were fed."""

    def __init__(self, *, ignore_sync: Callable[[str], bool] = lambda name: False) -> None:
        """`ignore_sync`: files whose syncs do nothing; the ablation of a test."""
        self.files: dict[int, File] = {}
        self._ignore_sync = ignore_sync

    def feed(self, event: Event) -> None:
        match event.op:
            case Op.MARK:
                return
            case Op.OPEN | Op.MKDIR:
                created = bool(event.flags & _CREATED) or event.op is Op.MKDIR
                if event.file not in self.files or created:
                    self.files[event.file] = File(event.text, bool(event.flags & _FOLDER), is_named=not created)
            case Op.SYNC:
                self._sync(self.files[event.file])
            case Op.UNLINK:
                del self.files[event.file]
            case Op.RENAME:
                raise NotImplementedError("no store under test renames files")
            case _:
                file = self.files[event.file]
                file.unsynced.append(event)
                if event.flags & _DURABLE:
                    self._settle(file, event)

    def _sync(self, file: File) -> None:
        if self._ignore_sync(file.name):
            return
        if file.is_folder:
            for other in self.files.values():
                if os.path.dirname(other.name) == file.name:
                    other.is_named = True
        else:
            file.sync()

    def _settle(self, file: File, event: Event) -> None:
        """An O_DSYNC write: it alone is on the disk, whatever is still unsynced around it."""
        if not self._ignore_sync(file.name + " (O_DSYNC)"):
            file.unsynced.pop()
            file.apply(event)

    @property
    def unsynced_count(self) -> int:
        return sum(len(file.unsynced) for file in self.files.values())

    def image(self, folder: Path, random: Random, *, mode: str = "random") -> None:
        """Writes one possible folder. `mode`: "none" or "all" of what was not synced, or a "random" part."""
        folder.mkdir(parents=True)
        for file in sorted(self.files.values(), key=lambda file: file.name):
            if not file.name:
                continue
            if (
                not file.is_named
                and not file.is_folder
                and (mode == "none" or (mode == "random" and random.random() < 0.5))
            ):
                continue
            if file.is_folder:
                (folder / file.name).mkdir(parents=True, exist_ok=True)
                continue
            (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
            _write(folder / file.name, _survivor(file, random, mode))


def _survivor(file: File, random: Random, mode: str) -> File:
    result = file.copy()
    if mode == "none":
        return result
    for event in file.unsynced:
        if mode == "all":
            result.apply(event)
        elif event.op is not Op.WRITE:
            if random.random() < 0.5:
                result.apply(event)
        else:
            for piece in _pieces(event, random):
                result.apply(piece)
    return result


def _pieces(event: Event, random: Random) -> Iterator[Event]:
    """What is left of an unsynced write: all, nothing, or some of its sectors."""
    fate = random.random()
    if fate < 0.3:
        return
    if fate < 0.6:
        yield event
        return
    at = 0
    while at < len(event.payload):
        step = SECTOR - (event.offset + at) % SECTOR
        if random.random() < 0.5:
            piece = event.payload[at : at + step]
            yield Event(event.op, event.file, 0, event.offset + at, len(piece), piece)
        at += step


def _write(path: Path, file: File) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for page, data in sorted(file.pages.items()):
            if page * PAGE < file.size:
                os.pwrite(fd, data, page * PAGE)
        os.ftruncate(fd, file.size)
    finally:
        os.close(fd)
