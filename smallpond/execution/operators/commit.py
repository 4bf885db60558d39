"""The last task of a sink: staged files move to where readers look.

It may be tried again after it failed half-way, or after it ended and nobody heard of it. So every step can be repeated:
what moves where stands in a journal in the staging folder before the first move, and a folder that takes another's
place carries a mark that tells that it did. One rule: the manifest moves last; until then `roll_back` undoes it all.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from threefs.common.errors import NotFound
from threefs.smallpond.io import filesystem
from threefs.smallpond.logical.node import DataSinkNode

MANIFEST = ".MANIFEST.txt"
JOURNAL = ".journal"
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2


@dataclass
class Journal:
    """moves: (staged file, its place), in order; old: files that go when the new ones are in."""

    moves: list[tuple[str, str]]
    old: list[str]

    def save(self, staging: str) -> None:
        _write(f"{staging}/{JOURNAL}", json.dumps([self.moves, self.old]))

    @staticmethod
    def load(staging: str) -> Journal | None:
        path = f"{staging}/{JOURNAL}"
        if not filesystem.exists(path):
            return None
        with filesystem.open_file(path, "rb") as file:
            moves, old = json.loads(file.read())
        return Journal([(source, place) for source, place in moves], old)


def list_only(node: DataSinkNode, staged: Sequence[str]) -> None:
    """A manifest of where the files are; they stay there."""
    filesystem.make_directory(node.sink_path)
    _write(f"{_target(node)}/{MANIFEST}", _listed(staged))


# ---- one folder takes the place of another ----


def swap_in(node: DataSinkNode, staging: str, staged: Sequence[str]) -> list[str]:
    """The staging folder takes the target's place: readers see the old folder or the new one."""
    target = _target(node)
    final = [target + path[len(staging) :] for path in staged]
    if not has_swapped(node, staging):
        _write(f"{staging}/{MANIFEST}", _listed(final))
        _write(f"{staging}/{_mark(staging)}", "")
        _swap(staging, target)
    for old in (staging, _set_aside(staging)):
        shutil.rmtree(old, ignore_errors=True)
    return final


def has_swapped(node: DataSinkNode, staging: str) -> bool:
    return os.path.exists(f"{_target(node)}/{_mark(staging)}")


def _swap(staging: str, target: str) -> None:
    if not os.path.isdir(target):
        os.rename(staging, target)
    elif _rename(staging, target, _RENAME_EXCHANGE):  # the file system or the C library cannot exchange
        os.rename(target, _set_aside(staging))
        os.rename(staging, target)


def _mark(staging: str) -> str:
    return f".committed-{staging.rpartition('-')[2]}"


def _set_aside(staging: str) -> str:
    return f"{staging}.old"


# ---- files move into a folder ----


def move_in(node: DataSinkNode, staging: str, staged: Sequence[str], old: Sequence[str]) -> list[str]:
    """Files one by one, each whole; then the manifest; then `old` files go."""
    journal = Journal.load(staging)
    if journal is None:
        journal = _plan(node, staging, staged, old)
    target = _target(node)
    if filesystem.exists(f"{staging}/{MANIFEST}"):
        for number in range(len(journal.moves)):
            _move(journal, number, staging)
        manifest = f"{target}/{MANIFEST}"
        if filesystem.protocol_of(manifest):
            filesystem.remove_path(manifest)  # not every file system replaces
        filesystem.rename(f"{staging}/{MANIFEST}", manifest)
    for path in journal.old:
        filesystem.remove_path(path)
    return [place for _, place in journal.moves]


def _plan(node: DataSinkNode, staging: str, staged: Sequence[str], old: Sequence[str]) -> Journal:
    taken: set[str] = set()
    moves = []
    for path in staged:
        place = _free_name(_target(node) + path[len(staging) :], taken)
        taken.add(place)
        moves.append((path, place))
    journal = Journal(moves, list(old))
    _write(f"{staging}/{MANIFEST}", _listed([place for _, place in moves]))
    journal.save(staging)
    return journal


def _move(journal: Journal, number: int, staging: str) -> None:
    path, place = journal.moves[number]
    if not filesystem.exists(path):
        if not filesystem.exists(place):
            raise NotFound(f"{path} was staged for {place}, and is in neither place: somebody removed it")
        return  # an attempt before this one moved it
    filesystem.make_directory(place.rpartition("/")[0])
    while not _rename_to_new(path, place):  # another writer was faster
        place = _free_name(place, {place for _, place in journal.moves})
        journal.moves[number] = path, place
        _write(f"{staging}/{MANIFEST}", _listed([place for _, place in journal.moves]))
        journal.save(staging)


def _rename_to_new(path: str, place: str) -> bool:
    """False when the place is taken. Where the file system cannot tell, the name was free a moment ago."""
    code = errno.ENOSYS if filesystem.protocol_of(place) else _rename(path, place, _RENAME_NOREPLACE)
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        filesystem.rename(path, place)
    elif code not in (0, errno.EEXIST):
        raise OSError(code, os.strerror(code), path, None, place)
    return code != errno.EEXIST


def _free_name(path: str, taken: set[str]) -> str:
    """`stem.1.parquet` beside `stem.parquet`, and so on."""
    folder, _, name = path.rpartition("/")
    stem, dot, suffix = name.partition(".")
    number = 0
    while path in taken or filesystem.exists(path):
        number += 1
        path = f"{folder}/{stem}.{number}{dot}{suffix}"
    return path


# ---- the end of a run ----


def roll_back(node: DataSinkNode, staging: str) -> None:
    """Take back what a commit did that came to no end; one that ended stays as it is."""
    journal = Journal.load(staging)
    if journal is not None and filesystem.exists(f"{staging}/{MANIFEST}"):
        for path, place in journal.moves:
            if not filesystem.exists(path):
                filesystem.remove_path(place)
    if not filesystem.protocol_of(staging) and os.path.isdir(_set_aside(staging)):
        with contextlib.suppress(OSError):  # the target is there: then this is the one that was replaced
            os.rename(_set_aside(staging), _target(node))


def clean_up(node: DataSinkNode, staging: str) -> None:
    """Nothing of the commit stays but its outcome."""
    filesystem.remove_path(staging)
    if not filesystem.protocol_of(staging):
        filesystem.remove_path(_set_aside(staging))
        filesystem.remove_path(f"{_target(node)}/{_mark(staging)}")


# ---- small things ----


def _target(node: DataSinkNode) -> str:
    return node.sink_path.rstrip("/")


def _listed(files: Sequence[str]) -> str:
    """One path a line; hidden, so that readers of the folder pass it by."""
    return "".join(f"{path}\n" for path in files)


def _write(path: str, text: str) -> None:
    if filesystem.protocol_of(path):
        with filesystem.open_file(path, "wb") as file:
            file.write(text.encode())
    else:
        filesystem.write_text_atomically(path, text)


def _rename(first: str, second: str, flags: int) -> int:
    """renameat2: 0, or its error; ENOSYS where the C library does not have it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return errno.ENOSYS
    paths = [os.fsencode(filesystem.local_path(path)) for path in (first, second)]
    return ctypes.get_errno() if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], flags) else 0
