"""Sleeping until something changes in a folder: inotify where the kernel has it, the timeout everywhere else.

Events of other hosts on a shared file system are not seen by this kernel, so whoever sleeps here must look again after
the timeout anyway. One rule: an event before `wait` makes the next `wait` return at once; none is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
from collections.abc import Iterable

IN_CREATE, IN_DELETE, IN_MOVED_FROM, IN_MOVED_TO = 0x100, 0x200, 0x40, 0x80
EVENTS = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
DRAIN_BYTES = 1 << 16


class Wakeup:
    """`native=False` leaves inotify out (for tests of the polling)."""

    def __init__(self, folders: Iterable[str], *, native: bool = True) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watch = _watch(folders) if native else -1

    def wake(self) -> None:
        """From any thread: end the current wait, or the next one."""
        os.eventfd_write(self._event, 1)

    def wait(self, seconds: float) -> None:
        descriptors = [fd for fd in (self._event, self._watch) if fd >= 0]
        ready, _, _ = select.select(descriptors, [], [], max(0.0, seconds))
        for fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 8 if fd == self._event else DRAIN_BYTES)

    def close(self) -> None:
        for fd in (self._event, self._watch):
            if fd >= 0:
                os.close(fd)
        self._event = self._watch = -1


def _watch(folders: Iterable[str]) -> int:
    """An inotify descriptor on the folders, or -1 where that cannot be had (the caller polls then)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return -1
    fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        return -1
    for folder in folders:
        if libc.inotify_add_watch(fd, os.fsencode(folder), ctypes.c_uint32(EVENTS)) < 0:
            os.close(fd)
            return -1
    return fd
