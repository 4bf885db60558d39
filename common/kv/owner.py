"""One owner a store: a lock file that says who holds it. Used by the embedded engine.

Rule: the lock is the kernel's (`flock`), which dies with its process; the text in the file only explains it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from threefs.common.kv.errors import KvOwned, KvUnavailable


class OwnerLock:
    """Held from construction to `release`; KvOwned names the process that has it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "owner.lock"
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as exc:
            raise KvUnavailable(f"cannot open {self.path}: {exc.strerror}; fix the folder's owner or mode") from exc
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner = _describe(os.pread(self._fd, 4096, 0))
            os.close(self._fd)
            raise KvOwned(
                f"the store {folder} is in use by {owner}; stop that process, or set kv.engine to "
                '"fdb" or "etcd", which several processes may share'
            ) from exc
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def _describe(raw: bytes) -> str:
    try:
        owner = json.loads(raw)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said its name yet"
