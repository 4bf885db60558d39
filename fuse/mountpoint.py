"""The place in the machine's tree where a mount goes: checks before, tuning after, recovery of what a dead one left.

Only this module reads /proc/self/mountinfo and /sys. The rule it keeps: nothing is mounted over something that is
there, except over the remains of a 3fs mount whose daemon is gone.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from threefs.common.errors import UserError

_log = logging.getLogger(__name__)
FS_TYPE = "fuse.3fs"


@dataclass(frozen=True, slots=True)
class MountEntry:
    mountpoint: str
    device: str  # "major:minor"
    fs_type: str
    source: str


def mounts() -> list[MountEntry]:
    """What is mounted, in the order in which it was."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        fields, (fs_type, source, *_) = left.split(" "), right.split(" ")
        path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        found.append(MountEntry(path, fields[2], fs_type, source))
    return found


def mounted_at(path: str) -> MountEntry | None:
    """The topmost mount at exactly this place."""
    return next((entry for entry in reversed(mounts()) if entry.mountpoint == path), None)


def absolute(mountpoint: Path) -> str:
    """As the kernel lists it. The last component is not looked at: that may be a mount that nobody serves."""
    return os.path.join(os.path.realpath(mountpoint.parent), mountpoint.name)


def is_served(mountpoint: Path) -> bool:
    """Something is mounted there, and its daemon answers."""
    path = absolute(mountpoint)
    return mounted_at(path) is not None and not _is_dead(path)


def clear(mountpoint: Path) -> None:
    """Takes away what a dead daemon left there, before anything else touches the path: every look at it may fail."""
    path = absolute(mountpoint)
    while (entry := mounted_at(path)) is not None and _is_dead(path):
        _recover(path, entry)


def prepare(mountpoint: Path) -> str:
    """The absolute path to mount at. UserError if it is no empty directory or something is mounted there."""
    path = absolute(mountpoint)
    clear(mountpoint)
    entry = mounted_at(path)
    if entry is not None:
        raise UserError(
            f"{path} is already a mount point ({entry.fs_type} from {entry.source})",
            f"unmount it (umount {path}) or choose another directory",
        )
    _check_empty(path)
    return path


def _is_dead(path: str) -> bool:
    try:
        os.statvfs(path)  # asks the daemon each time; what stat says may come from the kernel's cache
    except OSError as exc:
        return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _recover(path: str, entry: MountEntry) -> None:
    """Takes a mount away whose daemon is gone. Ours only: what others left is theirs to judge."""
    if entry.fs_type != FS_TYPE:
        raise UserError(
            f"{path} holds a dead mount of another file system ({entry.fs_type} from {entry.source})",
            f"take it away first: umount -l {path}",
        )
    _log.warning("%s holds a 3fs mount whose daemon is gone; it is taken away", path)
    done = subprocess.run(["umount", "-l", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"{path} holds a 3fs mount whose daemon is gone, and it cannot be taken away: {done.stderr.strip()}",
            f"as root: umount -l {path}",
        )


def _check_empty(path: str) -> None:
    try:
        names = os.listdir(path)
    except FileNotFoundError as exc:
        raise UserError(f"mount point {path} does not exist", f"make it: mkdir -p {path}") from exc
    except NotADirectoryError as exc:
        raise UserError(f"mount point {path} is no directory", "choose an empty directory") from exc
    except OSError as exc:
        raise UserError(f"mount point {path} cannot be read: {exc.strerror}", "choose an empty directory") from exc
    if names:
        raise UserError(
            f"mount point {path} is not empty ({len(names)} entries, among them {names[0]!r})",
            "choose an empty directory: what it holds would be hidden",
        )


def set_read_ahead(path: str, kib: int) -> None:
    """How far the kernel reads ahead of a sequential reader; its default of 128 KiB is far too short for a network.
    Without the right to set it the mount is only slower."""
    entry = mounted_at(path)
    if entry is None:
        return
    try:
        Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb").write_text(str(kib))
    except OSError as exc:
        _log.warning("read-ahead of %s stays at the kernel's default: %s", path, exc)
