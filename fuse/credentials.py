"""Who asks: ids from the kernel, supplementary groups from /proc, remembered for a moment; and whether it is dying.

Used by every operation that meta checks. The kernel has already checked by its own knowledge of the caller
(`default_permissions`); meta checks again with what is made here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from threefs.common.files import Credentials

CACHE_ENTRIES_MAX = 4096


_KILL = 1 << (signal.SIGKILL - 1)


def _status(pid: int, field: bytes) -> bytes:
    """A line of /proc/PID/status; empty if the process is gone, or foreign (pid 0)."""
    if not pid:
        return b""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return b""
    return next((line[len(field) :] for line in status.splitlines() if line.startswith(field)), b"")


def groups_of(pid: int) -> tuple[int, ...]:
    """Supplementary groups of a process; none if it is gone, or foreign (pid 0)."""
    return tuple(int(group) for group in _status(pid, b"Groups:").split())


def is_being_killed(pid: int) -> bool:
    """True of a thread that will never see the answer: whatever the deadly signal was, the kernel makes it SIGKILL."""
    return bool(int(_status(pid, b"SigPnd:") or b"0", 16) & _KILL)


class CredentialsCache:
    def __init__(self, now: Callable[[], float], *, token: str, groups_s_max: float) -> None:
        self._now = now
        self._token = token
        self.groups_s_max = groups_s_max
        self._known: dict[tuple[int, int, int], tuple[float, Credentials]] = {}

    def of(self, uid: int, gid: int, pid: int) -> Credentials:
        """Credentials of a caller. Root's groups decide nothing and are not looked up."""
        key = (uid, gid, pid if uid else 0)
        known = self._known.get(key)
        now = self._now()
        if known is not None and (now - known[0] <= self.groups_s_max or not uid):
            return known[1]
        made = Credentials(uid, gid, groups_of(pid) if uid else (), self._token)
        if len(self._known) >= CACHE_ENTRIES_MAX:
            self._known.clear()
        self._known[key] = (now, made)
        return made
