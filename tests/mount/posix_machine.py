"""The state machine that compares a mount with a local folder: random operations of two users, the same on both.

After every operation its results are compared, and for every entry of the two trees: type, mode, owner, group,
links, size, content, target, and whether the operation changed its mtime and ctime.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.mount import user_process

USERS = {"ann": (61001, 61001, [61100]), "bob": (61002, 61002, [61100])}  # uid, gid, groups: one shared
GROUPS = [61001, 61002, 61100, -1]

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
users = st.sampled_from(sorted(USERS))
modes = st.one_of(st.sampled_from([0o755, 0o777, 0o700, 0o644, 0o666]), st.integers(0, 0o7777))
contents = st.sampled_from(["", "x", "hello", "y" * 5000])
lengths = st.sampled_from([0, 1, 4095, 70000, 200001])
seconds = st.integers(1, 2_000_000_000)


class User:
    """One process that acts for a user."""

    def __init__(self, name: str) -> None:
        uid, gid, groups = USERS[name]
        self.process = subprocess.Popen(
            [sys.executable, user_process.__file__, json.dumps([uid, gid, groups])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, operation: str, arguments: list[Any], roots: list[str]) -> list[Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(
            json.dumps({"operation": operation, "arguments": arguments, "roots": roots}),
            file=self.process.stdin,
            flush=True,
        )
        found: list[Any] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class PosixMachine(RuleBasedStateMachine):
    """Subclasses say where: `mounted` and `local` are empty folders that everybody may write."""

    mounted: Path
    local: Path
    users: dict[str, User]
    numbers = itertools.count()
    performed = 0  # operations of all runs
    succeeded = 0

    @initialize(sticky=st.booleans(), set_gid=st.booleans())
    def begin(self, sticky: bool, set_gid: bool) -> None:
        mode = 0o777 | (stat.S_ISVTX if sticky else 0) | (stat.S_ISGID if set_gid else 0)
        number = next(self.numbers)
        self.roots = [top / f"run{number}" / "tree" for top in (self.mounted, self.local)]
        for root in self.roots:
            root.mkdir(parents=True)
            root.parent.chmod(0o755)  # a symlink to "../b" leads here, where users may not write
            os.chown(root, 0, 61100)
            root.chmod(mode)
            for name, (uid, gid, _) in zip("ab", USERS.values(), strict=True):  # else most operations find no folder
                (root / name).mkdir()
                os.chown(root / name, uid, gid)
        self.before = [snapshot(root) for root in self.roots]

    def teardown(self) -> None:
        for root in getattr(self, "roots", []):
            shutil.rmtree(root.parent)

    def same(self, user: str, operation: str, *arguments: Any) -> None:
        cls = type(self)
        results = self.users[user].do(operation, list(arguments), [str(root) for root in self.roots])
        cls.performed += 1
        cls.succeeded += results[1][0] == "ok"
        call = f"{user}: {operation}{arguments}"
        assert results[0] == results[1], f"{call}: mount {results[0]}, local {results[1]}"
        after = [snapshot(root) for root in self.roots]
        views = [compare(before, now) for before, now in zip(self.before, after, strict=True)]
        assert views[0].keys() == views[1].keys(), f"{call}: mount has {list(views[0])}, local {list(views[1])}"
        for path in views[1]:
            assert views[0][path] == views[1][path], f"{call}: {path}: mount {views[0][path]}, local {views[1][path]}"
        self.before = after

    # --- names ---

    @rule(user=users, path=paths, mode=modes)
    def mkdir(self, user: str, path: str, mode: int) -> None:
        self.same(user, "mkdir", path, mode)

    @rule(user=users, path=paths)
    def rmdir(self, user: str, path: str) -> None:
        self.same(user, "rmdir", path)

    @rule(user=users, path=paths)
    def unlink(self, user: str, path: str) -> None:
        self.same(user, "unlink", path)

    @rule(user=users, path=paths, new=paths)
    def link(self, user: str, path: str, new: str) -> None:
        self.same(user, "link", path, new)

    @rule(user=users, goal=st.sampled_from(["a", "../b", "missing", "a/b", "t" * 300]), path=paths)
    def symlink(self, user: str, goal: str, path: str) -> None:
        self.same(user, "symlink", goal, path)

    @rule(user=users, path=paths, new=paths, flags=st.sampled_from([0, 0, 0, 1, 2]))
    def rename(self, user: str, path: str, new: str, flags: int) -> None:
        self.same(user, "rename", path, new, flags)

    @rule(user=users, path=paths, mode=modes)
    def mkfifo(self, user: str, path: str, mode: int) -> None:
        self.same(user, "mkfifo", path, mode)

    # --- files ---

    @rule(
        user=users,
        path=paths,
        flags=st.sampled_from(
            [
                os.O_CREAT | os.O_WRONLY,
                os.O_CREAT | os.O_RDWR | os.O_EXCL,
                os.O_CREAT | os.O_WRONLY | os.O_TRUNC,
                os.O_WRONLY | os.O_TRUNC,
                os.O_WRONLY | os.O_APPEND,
                os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW,
            ]
        ),
        mode=modes,
        content=contents,
    )
    def make_file(self, user: str, path: str, flags: int, mode: int, content: str) -> None:
        if is_fifo(self.roots[1] / path):
            content = ""  # bytes in a pipe stay in the kernel, which does not tell a mount that its mtime changes
        self.same(user, "make_file", path, flags | os.O_NONBLOCK, mode, content)

    @rule(user=users, path=paths, offset=lengths, content=contents)
    def write_at(self, user: str, path: str, offset: int, content: str) -> None:
        if not is_fifo(self.roots[1] / path):
            self.same(user, "write_at", path, offset, content)

    @rule(user=users, path=paths, content=contents)
    def write_after_unlink(self, user: str, path: str, content: str) -> None:
        if not is_fifo(self.roots[1] / path):
            self.same(user, "write_after_unlink", path, content)

    @rule(user=users, path=paths, content=contents, second=seconds)
    def write_then_set_time(self, user: str, path: str, content: str, second: int) -> None:
        if not is_fifo(self.roots[1] / path):
            self.same(user, "write_then_set_time", path, content, second)

    @rule(user=users, path=paths, length=lengths)
    def truncate(self, user: str, path: str, length: int) -> None:
        self.same(user, "truncate", path, length)

    @rule(user=users, path=paths)
    def read(self, user: str, path: str) -> None:
        if not is_fifo(self.roots[1] / path):
            self.same(user, "read", path)

    # --- attributes ---

    @rule(user=users, path=paths, mode=modes)
    def chmod(self, user: str, path: str, mode: int) -> None:
        self.same(user, "chmod", path, mode)

    @rule(user=users, path=paths, uid=st.sampled_from([61001, 61002, -1]), gid=st.sampled_from(GROUPS))
    def chown(self, user: str, path: str, uid: int, gid: int) -> None:
        if (uid, gid) != (-1, -1):  # this one changes nothing, and the kernel does not even tell a mount of it
            self.same(user, "chown", path, uid, gid)

    @rule(user=users, path=paths, atime=seconds, mtime=seconds)
    def set_times(self, user: str, path: str, atime: int, mtime: int) -> None:
        self.same(user, "set_times", path, atime * 10**6 + 7, mtime * 10**6 + 123456)

    @rule(user=users, path=paths)
    def touch(self, user: str, path: str) -> None:
        self.same(user, "touch", path)

    @rule(user=users, path=paths)
    def look(self, user: str, path: str) -> None:
        self.same(user, "lstat", path)
        self.same(user, "listdir", path)
        self.same(user, "readlink", path)

    @rule(user=users, path=paths, mode=st.integers(0, 7))
    def access(self, user: str, path: str, mode: int) -> None:
        self.same(user, "access", path, mode)

    @rule(user=users, path=paths, name=st.sampled_from(["user.a", "user.b"]), value=contents, flags=st.integers(0, 2))
    def setxattr(self, user: str, path: str, name: str, value: str, flags: int) -> None:
        self.same(user, "setxattr", path, name, value[:1000], flags)

    @rule(user=users, path=paths, name=st.sampled_from(["user.a", "user.b"]))
    def other_xattrs(self, user: str, path: str, name: str) -> None:
        self.same(user, "getxattr", path, name)
        self.same(user, "removexattr", path, name)


def is_fifo(path: Path) -> bool:
    """Opening one would wait for its other end."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


Snapshot = dict[str, tuple[int, list[Any], str, int, int]]  # path: inode, attributes, content, mtime, ctime


def snapshot(root: Path) -> Snapshot:
    found: Snapshot = {}
    todo = [root]
    while todo:
        path = todo.pop()
        status = os.lstat(path)
        content = ""
        if stat.S_ISDIR(status.st_mode):
            todo += [path / name for name in os.listdir(path)]
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes().hex()
        key = str(path.relative_to(root))
        found[key] = (status.st_ino, user_process.describe(status), content, status.st_mtime_ns, status.st_ctime_ns)
    return dict(sorted(found.items()))


def compare(before: Snapshot, now: Snapshot) -> dict[str, tuple[Any, ...]]:
    """What must be equal on both sides: attributes and content as they are, times as changed or not."""
    view: dict[str, tuple[Any, ...]] = {}
    times = {inode: rest for inode, _, _, *rest in before.values()}
    for path, (inode, attributes, content, mtime, ctime) in now.items():
        old = times.get(inode)
        changed = ("new",) if old is None else (mtime != old[0], ctime != old[1])
        view[path] = (attributes, content[:200], len(content), changed)
    return view


def compare_with_local(mounted: Path, *, examples: int, steps: int) -> None:
    """Runs the machine: AssertionError with the shortest sequence of operations that differs. Everybody may write
    in `mounted`."""
    people = {name: User(name) for name in USERS}
    try:
        with tempfile.TemporaryDirectory(prefix="3fs-local-") as local:
            Path(local).chmod(0o755)
            machine = type("Machine", (PosixMachine,), {"mounted": mounted, "local": Path(local), "users": people})
            chosen = settings(
                max_examples=examples,
                stateful_step_count=steps,
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            )
            run_state_machine_as_test(machine, settings=chosen)  # type: ignore[no-untyped-call]
        assert machine.performed >= examples * 5  # type: ignore[attr-defined]
        assert machine.succeeded >= machine.performed // 20  # type: ignore[attr-defined]
    finally:
        for user in people.values():
            user.close()
