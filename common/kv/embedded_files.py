"""The files of an embedded store: made, opened by one owner, checked for their format, and what LMDB's errors mean.

`EmbeddedEngine` opens its store with it. One rule: a store is whole or not there, because a new one is made aside.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from pathlib import Path
from typing import Any, Final

from threefs.common.errors import Corrupt, NoSpace
from threefs.common.kv.errors import KvMaybeCommitted, KvUnavailable
from threefs.common.kv.owner import OwnerLock
from threefs.native._core import ffi, lib

SNAPSHOTS_MAX: Final = 4096

_OPERATION: Final = struct.Struct("<BxHI")  # kv_store.h
_FORMAT_KEY: Final = b"\xffformat"
_FORMAT: Final = b"threefs-kv 1"
_FILE: Final = "data.mdb"  # LMDB's name for it


def encode_operation(kind: int, key: bytes, value: bytes = b"") -> bytes:
    """One operation of a batch for `kv_commit`."""
    return _OPERATION.pack(kind, len(key), len(value)) + key + value


def check(code: int, action: str) -> None:
    """Turns what a `kv_*` function returned into the error it means."""
    if code == 0:
        return
    reason = str(ffi.string(lib.kv_strerror(code)).decode())
    if code in (errno.ENOSPC, errno.EDQUOT):
        raise NoSpace(f"{action}: the disk is full; nothing was committed, free some space")
    if code == lib.KV_MAP_FULL:
        raise NoSpace(f"{action}: the store has reached kv.map_bytes_max; raise it and restart")
    if code == lib.KV_READERS_FULL:
        raise KvUnavailable(f"{action}: {SNAPSHOTS_MAX} transactions are open at once, which is the limit")
    if code == errno.EIO:
        raise KvMaybeCommitted(f"{action}: {reason}; the outcome is unknown, the disk may be failing")
    if code < 0:
        raise Corrupt(f"{action}: {reason}; the store is damaged, restore it from a copy")
    raise KvUnavailable(f"{action}: {reason}")


def open_files(folder: Path, map_bytes_max: int) -> tuple[Any, OwnerLock]:
    """The opened store (`kv_store *`) and the lock that says whose it is; both are the caller's to give back."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise KvUnavailable(f"cannot create {folder}: {exc.strerror}; fix kv.path") from exc
    owner = OwnerLock(folder)
    try:
        if not (folder / _FILE).exists():
            _create(folder)
        store = _open_raw(folder, map_bytes_max)
        try:
            _check_format(store, folder)
            return store, owner
        except BaseException:
            lib.kv_close(store)
            raise
    except BaseException:
        owner.release()
        raise


def _open_raw(folder: Path, map_bytes: int) -> Any:
    store = ffi.new("kv_store **")
    check(lib.kv_open(os.fsencode(folder), map_bytes, SNAPSHOTS_MAX, store), f"opening store {folder}")
    return store[0]


def _create(folder: Path) -> None:
    """Makes a new store aside and moves it to its place, because LMDB does not sync a new file's first pages."""
    aside = folder / "creating"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    store = _open_raw(aside, 1 << 20)
    batch, group = encode_operation(lib.KV_SET, _FORMAT_KEY, _FORMAT), ffi.new("uint64_t *")
    code = lib.kv_commit(store, batch, len(batch), group)
    lib.kv_close(store)
    check(code, f"creating store {folder}")
    _sync(aside / _FILE)
    (aside / _FILE).rename(folder / _FILE)
    shutil.rmtree(aside)
    _sync(folder)
    _sync(folder.parent)


def _check_format(store: Any, folder: Path) -> None:
    """Corrupt for a store that another program or a later release wrote."""
    snapshot, group = ffi.new("kv_snapshot **"), ffi.new("uint64_t *")
    check(lib.kv_snapshot_open(store, snapshot, group), f"opening store {folder}")
    value, size = ffi.new("const uint8_t **"), ffi.new("size_t *")
    try:
        check(lib.kv_get(snapshot[0], _FORMAT_KEY, len(_FORMAT_KEY), value, size), f"opening store {folder}")
        found = None if value[0] == ffi.NULL else bytes(ffi.buffer(value[0], size[0]))
    finally:
        lib.kv_snapshot_close(snapshot[0])
    if found != _FORMAT:
        raise Corrupt(
            f"{folder} is no store of this release: its format is {found!r}, not {_FORMAT!r}; name another kv.path"
        )


def _sync(path: Path) -> None:
    """Makes a file, or the names in a folder, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
