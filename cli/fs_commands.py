"""`3fs fs …`: files of the cluster, without a mount. Paths are absolute within the cluster."""

from __future__ import annotations

import os
import stat as st
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from threefs.cli.entry import run_async
from threefs.cli.options import DirOption, JsonOption, MgmtdOption, YesOption, addresses, confirm
from threefs.cli.output import bytes_text, print_json, print_table, progress_bar, say
from threefs.client.connect import connect
from threefs.client.filesystem import COPY_BYTES, FileSystem
from threefs.common.errors import UserError
from threefs.common.files import FileType, Inode, Layout
from threefs.common.ids import ChainTableId
from threefs.native.buffers import buffer

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="Files of the cluster, without a mount.")
PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="Absolute path within the cluster.")]
REMOTE = "3fs:"


def _with_files(folder: Path | None, mgmtd: str, work: Callable[[FileSystem], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connect(addresses(folder, mgmtd), description="3fs fs") as files:
            return await work(files)

    return run_async(run())


def _as_dict(name: str, inode: Inode) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "inode": inode.id,
        "type": inode.type.name.lower(),
        "mode": st.filemode(inode.st_mode),
        "uid": inode.uid,
        "gid": inode.gid,
        "nlink": inode.nlink,
        "length": inode.length,
        "mtime_us": inode.mtime_us,
    }
    if inode.layout is not None:
        found["layout"] = {
            "chunk_bytes": inode.layout.chunk_bytes,
            "stripe": inode.layout.stripe,
            "table": inode.layout.table,
            "table_version": inode.layout.table_version,
            "chains": list(inode.layout.chains),
        }
    if inode.type is FileType.SYMLINK:
        found["target"] = inode.symlink
    return found


def _row(name: str, inode: Inode) -> tuple[Any, ...]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(inode.mtime_us / 1e6))
    shown = f"{name} -> {inode.symlink}" if inode.type is FileType.SYMLINK else name
    return (st.filemode(inode.st_mode), inode.nlink, inode.uid, inode.gid, inode.length, when, shown)


@app.command("ls")
def list_directory(
    path: PathArgument = "/", folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False
) -> None:
    """List a directory with attributes."""

    async def work(files: FileSystem) -> list[tuple[str, Inode]]:
        found = await files.lstat(path)
        if found.type is not FileType.DIRECTORY:
            return [(path, found)]
        return [(entry.name, entry.inode) for entry in await files.scandir(path)]

    entries = _with_files(folder, mgmtd, work)
    if as_json:
        print_json([_as_dict(name, inode) for name, inode in entries])
    else:
        rows = [_row(name, inode) for name, inode in entries]
        print_table(("mode", "links", "uid", "gid", "bytes", "modified", "name"), rows)


@app.command("stat")
def show_stat(
    path: PathArgument, folder: DirOption = None, mgmtd: MgmtdOption = "", as_json: JsonOption = False
) -> None:
    """Show everything that is known of one path, its layout included."""
    found = _as_dict(path, _with_files(folder, mgmtd, lambda files: files.lstat(path)))
    if as_json:
        print_json(found)
    else:
        print_table(("field", "value"), found.items())


@app.command("cat")
def print_file(path: PathArgument, folder: DirOption = None, mgmtd: MgmtdOption = "") -> None:
    """Print a file."""

    async def work(files: FileSystem) -> None:
        file = await files.open(path)
        view, offset = buffer(COPY_BYTES), 0
        try:
            while count := await file.pread(offset, [view]):
                sys.stdout.buffer.write(view[:count])
                offset += count
        finally:
            await file.close()
        sys.stdout.buffer.flush()

    _with_files(folder, mgmtd, work)


@app.command("cp")
def copy(
    source: Annotated[str, typer.Argument(help="Local path, or 3fs:/path in the cluster.")],
    target: Annotated[str, typer.Argument(help="Local path, or 3fs:/path in the cluster.")],
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Copy a file into the cluster, out of it, or within it: 3fs fs cp model.bin 3fs:/models/model.bin"""
    if not source.startswith(REMOTE) and not target.startswith(REMOTE):
        raise UserError("neither path is in the cluster", "write cluster paths as 3fs:/path")

    async def work(files: FileSystem) -> int:
        if source.startswith(REMOTE):
            if target.startswith(REMOTE):
                return await _copy_within(files, source.removeprefix(REMOTE), target.removeprefix(REMOTE))
            return await _copy_out(files, source.removeprefix(REMOTE), Path(target))
        return await _copy_in(files, Path(source), target.removeprefix(REMOTE))

    say(f"copied {bytes_text(_with_files(folder, mgmtd, work))}")


_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


async def _copy_in(files: FileSystem, source: Path, target: str) -> int:
    try:
        local = source.open("rb", buffering=0)
    except OSError as exc:
        raise UserError(f"cannot read {source}: {exc.strerror}", "check the path") from exc
    about = os.fstat(local.fileno())
    with local, progress_bar("copy", about.st_size) as progress:
        out, offset = await files.open(target, _NEW, mode=about.st_mode & 0o777), 0
        try:
            while count := local.readinto(view := buffer(COPY_BYTES)):
                await out.pwrite(offset, view[:count], owned=True)
                offset += count
                progress(count)
        finally:
            await out.close()
        return offset


async def _copy_out(files: FileSystem, source: str, target: Path) -> int:
    file = await files.open(source)
    try:
        with target.open("wb", buffering=0) as local, progress_bar("copy", file.attributes().length) as progress:
            view, offset = buffer(COPY_BYTES), 0
            while count := await file.pread(offset, [view]):
                local.write(view[:count])
                offset += count
                progress(count)
            return offset
    except OSError as exc:
        raise UserError(f"cannot write {target}: {exc.strerror}", "check the path and its free space") from exc
    finally:
        await file.close()


async def _copy_within(files: FileSystem, source: str, target: str) -> int:
    file = await files.open(source)
    out, offset = await files.open(target, _NEW, mode=file.attributes().mode & 0o777), 0
    try:
        while count := await file.pread(offset, [view := buffer(COPY_BYTES)]):
            await out.pwrite(offset, view[:count], owned=True)
            offset += count
    finally:
        await out.close()
        await file.close()
    return offset


@app.command("mkdir")
def make_directory(
    path: PathArgument,
    parents: Annotated[bool, typer.Option("--parents", "-p", help="Make what is missing on the way.")] = False,
    mode: Annotated[str, typer.Option(help="Permission bits, octal.")] = "755",
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Make a directory."""
    bits = _octal(mode)
    make = FileSystem.makedirs if parents else FileSystem.mkdir
    _with_files(folder, mgmtd, lambda files: make(files, path, bits))


@app.command("rm")
def remove(
    path: PathArgument,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="A directory with all that is in it.")] = False,
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
    yes: YesOption = False,
) -> None:
    """Remove a file, or with -r a tree."""
    if recursive:
        confirm(f"Remove {path} and everything below it?", yes)
    drop = FileSystem.rmtree if recursive else FileSystem.remove
    _with_files(folder, mgmtd, lambda files: drop(files, path))


@app.command("mv")
def move(
    source: PathArgument,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="New path.")],
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Rename; an existing file at TARGET is replaced, into an existing directory it moves."""

    async def work(files: FileSystem) -> None:
        into = await files.exists(target) and (await files.stat(target)).type is FileType.DIRECTORY
        await files.rename(source, os.path.join(target, os.path.basename(source.rstrip("/"))) if into else target)

    _with_files(folder, mgmtd, work)


@app.command("chmod")
def change_mode(
    mode: Annotated[str, typer.Argument(help="Permission bits, octal: 640.")],
    path: PathArgument,
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Set the permission bits."""
    bits = _octal(mode)
    _with_files(folder, mgmtd, lambda files: files.chmod(path, bits))


@app.command("layout")
def layout(
    path: PathArgument,
    chunk_kib: Annotated[int, typer.Option(min=0, max=65536, help="Chunk size, KiB; 0: as it is.")] = 0,
    stripe: Annotated[int, typer.Option(min=0, max=1024, help="Chains a file is spread over; 0: as it is.")] = 0,
    table: Annotated[int, typer.Option(min=0, help="Chain table; 0: as it is.")] = 0,
    folder: DirOption = None,
    mgmtd: MgmtdOption = "",
) -> None:
    """Show the layout of a path, or set a directory's for what will be created in it."""

    async def work(files: FileSystem) -> Inode:
        if chunk_kib or stripe or table:
            await files.set_layout(path, Layout(ChainTableId(table), 0, chunk_kib << 10, stripe))
        return await files.stat(path)

    found = _with_files(folder, mgmtd, work).layout
    if found is None:
        say(f"{path} has no layout of its own: it inherits that of the directory above")
    else:
        rows = [("chunk", bytes_text(found.chunk_bytes)), ("stripe", found.stripe), ("table", found.table)]
        print_table(("layout", "value"), [*rows, ("chains", " ".join(map(str, found.chains)) or "-")])


def _octal(text: str) -> int:
    try:
        bits = int(text, 8)
    except ValueError as exc:
        raise UserError(f"{text!r} is no octal mode", "write for example 755") from exc
    if not 0 <= bits <= 0o7777:
        raise UserError(f"mode {text} is out of range", "0 to 7777")
    return bits
