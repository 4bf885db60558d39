"""Paths of every kind: local files and mounts through the kernel, URLs (`3fs://`, `s3://` …) through fsspec.

Everybody who opens, lists or removes a file by name asks here. One rule: a function takes the path as the user wrote
it, URL or not, and gives paths back in the same form.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pickle
import re
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from threefs.common.errors import NotFound, Unsupported

_URL = re.compile(r"^([a-zA-Z0-9+]+)://")
_GLOB = re.compile(r"[*?]|\[.*\]")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file as it is now. `version` changes whenever the file is written anew."""

    path: str
    size: int
    version: str


def protocol_of(path: str) -> str | None:
    """`3fs` of `3fs://a/b`; None of a plain path and of `file://`."""
    found = _URL.match(path)
    return None if found is None or found[1] == "file" else found[1]


def local_path(path: str) -> str:
    """A plain path as it is; `file://` taken off."""
    return path.removeprefix("file://")


def fsspec_for(path: str) -> Any:
    """The fsspec file system of a URL."""
    protocol = protocol_of(path)
    assert protocol is not None, path
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as exc:
        raise Unsupported(f"{path}: no file system is installed for {protocol}:// ({exc})") from exc


def open_file(path: str, mode: str = "rb") -> IO[Any]:
    if protocol_of(path):
        opened: IO[Any] = fsspec_for(path).open(path, mode)
        return opened
    return open(local_path(path), mode)


def exists(path: str) -> bool:
    return bool(fsspec_for(path).exists(path)) if protocol_of(path) else os.path.exists(local_path(path))


def is_directory(path: str) -> bool:
    return bool(fsspec_for(path).isdir(path)) if protocol_of(path) else os.path.isdir(local_path(path))


def make_directory(path: str) -> None:
    if protocol_of(path):
        fsspec_for(path).makedirs(path, exist_ok=True)
    else:
        os.makedirs(local_path(path), exist_ok=True)


def remove_path(path: str) -> None:
    """Remove a file or a whole tree; no error when there is none."""
    if protocol_of(path):
        with contextlib.suppress(FileNotFoundError):
            fsspec_for(path).rm(path, recursive=True)
        return
    plain = local_path(path)
    if os.path.isdir(plain) and not os.path.islink(plain):
        shutil.rmtree(plain, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(plain)


def rename(source: str, target: str) -> None:
    """Move a file or a tree within one file system."""
    if protocol_of(source):
        fsspec_for(source).mv(source, target, recursive=True)
    else:
        os.replace(local_path(source), local_path(target))


def copy_file(source: str, target: str) -> None:
    """Copy between any two file systems."""
    if protocol_of(source) is None and protocol_of(target) is None:
        shutil.copyfile(local_path(source), local_path(target))
        return
    with open_file(source, "rb") as reader, open_file(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, 8 << 20)


def link_or_copy(source: str, target: str) -> None:
    """A hard link where the file system allows it, else a copy. Asked by trying, never by comparing mount points."""
    if protocol_of(source) is None and protocol_of(target) is None:
        try:
            os.link(local_path(source), local_path(target))
            return
        except FileExistsError:
            raise
        except OSError:  # another device, or links refused: copying always works
            pass
    copy_file(source, target)


def file_info(path: str) -> FileInfo:
    if protocol_of(path):
        try:
            info = fsspec_for(path).info(path)
        except FileNotFoundError as exc:
            raise NotFound(f"no such file: {path}") from exc
        version = next(
            (str(info[key]) for key in ("version", "etag", "ETag", "mtime", "LastModified") if key in info), ""
        )
        return FileInfo(path, int(info.get("size") or 0), version)
    try:
        stat = os.stat(local_path(path))
    except FileNotFoundError as exc:
        raise NotFound(f"no such file: {path}") from exc
    return FileInfo(path, stat.st_size, f"{stat.st_mtime_ns:x}.{stat.st_ino:x}")


def resolve_paths(paths: Iterable[str], *, recursive: bool = False, suffixes: Sequence[str] = ()) -> list[str]:
    """The files that a list of paths, folders and patterns stands for, sorted, each once.

    A folder means the files in it (below it too if `recursive`, and always below `key=value` folders); names that begin
    with a dot or an underscore do not count, and if any has one of `suffixes`, only those do. NotFound if a path or a
    pattern finds nothing.
    """
    found: set[str] = set()
    for path in paths:
        matches = _expand(path, recursive)
        for match in matches:
            if is_directory(match):
                found.update(_files_below(match, recursive, suffixes))
            else:
                found.add(match)
        if not matches:
            what = "no file matches" if has_pattern(path) else "no such file or directory:"
            raise NotFound(f"{what} {path}")
    return sorted(found)


def has_pattern(path: str) -> bool:
    return _GLOB.search(path) is not None


def _expand(path: str, recursive: bool) -> list[str]:
    if not has_pattern(path) or exists(path):
        return [path] if exists(path) else []
    protocol = protocol_of(path)
    if protocol:
        return [match if protocol_of(match) else f"{protocol}://{match}" for match in fsspec_for(path).glob(path)]
    return glob.glob(local_path(path), recursive=recursive or "**" in path)


def _files_below(root: str, recursive: bool, suffixes: Sequence[str]) -> list[str]:
    protocol = protocol_of(root)
    if protocol:
        names = [name if protocol_of(name) else f"{protocol}://{name}" for name in fsspec_for(root).find(root)]
    else:
        names = [os.path.join(folder, name) for folder, _, files in os.walk(local_path(root)) for name in files]
    prefix = len(root.rstrip("/")) + 1
    kept = [name for name in names if _counts(name[prefix:].split("/"), recursive)]
    matching = [name for name in kept if name.endswith(tuple(suffixes))] if suffixes else []
    return matching or kept


def _counts(parts: list[str], recursive: bool) -> bool:
    if any(part.startswith((".", "_")) for part in parts):
        return False
    return recursive or all("=" in part for part in parts[:-1])


def dump(value: object, path: str, buffering: int = 2 << 20, atomic_write: bool = False) -> None:
    """Pickle a value into a file; with `atomic_write` no reader ever sees half of it."""
    import cloudpickle

    target = f"{path}.{uuid.uuid4().hex[:8]}.new" if atomic_write else path
    with open(target, "wb", buffering=buffering) as file:
        cloudpickle.dump(value, file, protocol=pickle.HIGHEST_PROTOCOL)
    if atomic_write:
        os.replace(target, path)


def load(path: str, buffering: int = 2 << 20) -> Any:
    import cloudpickle

    with open(path, "rb", buffering=buffering) as file:
        return cloudpickle.load(file)


def write_text_atomically(path: str, text: str) -> None:
    fresh = Path(f"{path}.{uuid.uuid4().hex[:8]}.new")
    fresh.write_text(text)
    fresh.replace(path)


def absolute(path: str) -> str:
    """A URL as it is, a path from the root."""
    return path if protocol_of(path) else os.path.abspath(os.path.expanduser(local_path(path)))
