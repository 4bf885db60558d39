"""A user: `user_process.py [UID,GID,[GROUP,…]]`, started as root; does what it is told in several folders.

Reads one JSON request a line, {"operation", "arguments", "roots"}, and writes one JSON line: for each root
["ok", result] or ["error", errno name]. Results hold nothing that may differ between file systems by right.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100


def describe(found: os.stat_result) -> list[Any]:
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return [found.st_mode, found.st_uid, found.st_gid, found.st_nlink, size, found.st_rdev]


def lstat(path: str) -> list[Any]:
    return describe(os.lstat(path))


def make_file(path: str, flags: int, mode: int, content: str) -> list[Any]:
    number = os.open(path, flags, mode)
    try:
        if content:
            os.write(number, content.encode())
        return describe(os.fstat(number))
    finally:
        os.close(number)


def write_at(path: str, offset: int, content: str) -> int:
    number = os.open(path, os.O_WRONLY)
    try:
        return os.pwrite(number, content.encode(), offset)
    finally:
        os.close(number)


def write_after_unlink(path: str, content: str) -> list[Any]:
    """The file lives on without a name."""
    number = os.open(path, os.O_RDWR)
    try:
        os.unlink(path)
        os.pwrite(number, content.encode(), 3)
        return [describe(os.fstat(number)), os.pread(number, 1 << 20, 0).hex()]
    finally:
        os.close(number)


def write_then_set_time(path: str, content: str, seconds: int) -> int:
    number = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(number, content.encode())
        os.utime(number, ns=(seconds * 10**9, seconds * 10**9))
    finally:
        os.close(number)
    return os.stat(path).st_mtime_ns


def read(path: str) -> str:
    return Path(path).read_bytes().hex()


def listdir(path: str) -> list[str]:
    return sorted(os.listdir(path))


def rename(path: str, new: str, flags: int) -> None:
    if _libc.renameat2(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def set_times(path: str, atime_us: int, mtime_us: int) -> list[int]:
    os.utime(path, ns=(atime_us * 1000, mtime_us * 1000), follow_symlinks=False)
    found = os.lstat(path)
    return [found.st_atime_ns, found.st_mtime_ns]


def touch(path: str) -> None:
    os.utime(path)


def chown(path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)


def setxattr(path: str, name: str, value: str, flags: int) -> list[str]:
    os.setxattr(path, name, value.encode(), flags)
    return sorted(name for name in os.listxattr(path) if name.startswith("user."))


def getxattr(path: str, name: str) -> str:
    return os.getxattr(path, name).decode()


def removexattr(path: str, name: str) -> None:
    os.removexattr(path, name)


def access(path: str, mode: int) -> bool:
    return os.access(path, mode)


def mkfifo(path: str, mode: int) -> None:
    os.mkfifo(path, mode)


OPERATIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        lstat,
        make_file,
        write_at,
        write_after_unlink,
        write_then_set_time,
        read,
        listdir,
        rename,
        set_times,
        touch,
        chown,
        setxattr,
        getxattr,
        removexattr,
        access,
        mkfifo,
        os.mkdir,
        os.rmdir,
        os.unlink,
        os.link,
        os.readlink,
        os.chmod,
        os.truncate,
    )
}
PATHS = {"rename": (0, 1), "link": (0, 1)}  # which arguments are places in the tree; else the first


def symlink(target: str, path: str) -> None:
    os.symlink(target, path)


def perform(name: str, arguments: list[Any], root: str) -> list[Any]:
    if name == "symlink":
        return attempt(symlink, [arguments[0], f"{root}/{arguments[1]}"])
    places = PATHS.get(name, (0,))
    return attempt(OPERATIONS[name], [f"{root}/{a}" if i in places else a for i, a in enumerate(arguments)])


def attempt(function: Callable[..., Any], arguments: list[Any]) -> list[Any]:
    try:
        return ["ok", function(*arguments)]
    except OSError as exc:
        return ["error", errno.errorcode[exc.errno or 0]]


def main() -> None:
    uid, gid, groups = json.loads(sys.argv[1])
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)  # only now: another user could not start this interpreter everywhere
    os.umask(0)
    for line in sys.stdin:
        request = json.loads(line)
        results = [perform(request["operation"], request["arguments"], root) for root in request["roots"]]
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
