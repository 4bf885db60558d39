"""Programs that people run, on a mount: each function fails the test if the program or its result is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def run(*command: object, cwd: Path | None = None) -> str:
    """Output of a command that must succeed."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def copy_tree(source: Path, mounted: Path) -> Path:
    """cp -a, then diff -r finds nothing; mode, owner and mtime of every entry are the source's."""
    target = mounted / f"copy-of-{source.name}"
    run("cp", "-a", source, target)
    assert run("diff", "-r", "--no-dereference", source, target) == ""
    listing = "%P %y %m %U:%G %l"
    wanted, found = (sorted(run("find", top, "-printf", f"{listing}\\n").splitlines()) for top in (source, target))
    assert found == wanted
    times = [
        {path.relative_to(top): path.lstat().st_mtime_ns // 1000 for path in top.rglob("*") if not path.is_symlink()}
        for top in (source, target)
    ]
    assert times[0] == times[1]
    return target


def tar_in_and_out(tree: Path, mounted: Path) -> None:
    archive, out = mounted / "tree.tar", mounted / "untarred"
    run("tar", "-cf", archive, "-C", tree.parent, tree.name)
    out.mkdir()
    run("tar", "-xf", archive, "-C", out)
    assert run("diff", "-r", "--no-dereference", tree, out / tree.name) == ""


def make_repository(folder: Path, files: int) -> Path:
    """A small git repository outside the mount."""
    repository = folder / "origin"
    repository.mkdir()
    run("git", "init", "-q", cwd=repository)
    for number in range(files):
        path = repository / f"dir{number % 7}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(2000) if number % 3 else b"text\n" * number)
    run("git", "add", "-A", cwd=repository)
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    run("git", *who, "commit", "-q", "-m", "first", cwd=repository)
    return repository


def git_clone(repository: Path, mounted: Path) -> None:
    clone = mounted / "clone"
    run("git", "clone", "-q", "--no-hardlinks", repository, clone)
    run("git", "fsck", "--strict", cwd=clone)
    (clone / "new").write_text("new\n")
    run("git", "add", "new", cwd=clone)
    run("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "second", cwd=clone)
    run("git", "gc", "-q", cwd=clone)
    run("git", "fsck", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""


def sqlite(mounted: Path, *, journal: str, rows: int) -> None:
    """Inserts, updates, a rollback and an integrity check, by the command-line program."""
    base = mounted / f"{journal}.db"
    script = f"""
        pragma journal_mode={journal}; pragma synchronous=full;
        create table t(id integer primary key, v text);
        insert into t(v) select hex(randomblob(50)) from generate_series(1, {rows});
        begin; delete from t; rollback;
        begin; update t set v = v || 'x' where id % 3 = 0; commit;
    """
    run("sqlite3", base, script)
    assert run("sqlite3", base, "select count(*), sum(length(v)) from t; pragma integrity_check").split() == [
        f"{rows}|{rows * 100 + rows // 3}",
        "ok",
    ]


def dd_with_fsync(mounted: Path, mib: int) -> None:
    source, target = mounted / "dd-source", mounted / "dd-target"
    source.write_bytes(os.urandom(mib << 20))
    run("dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync")
    run("dd", f"if={source}", f"of={target}", "bs=3000", "count=100", "conv=notrunc,fsync", "oflag=append")
    assert target.stat().st_size == (mib << 20) + 300000
    run("cmp", "-n", mib << 20, source, target)


def fio_verify(mounted: Path, mib: int, *, engine: str, direct: bool) -> None:
    """Random writes, then every block's checksum is read back and compared."""
    run(
        "fio",
        "--name=verify",
        f"--directory={mounted}",
        f"--filename=fio-{engine}-{direct}",
        "--rw=randwrite",
        "--bs=4k",
        f"--size={mib}m",
        "--verify=crc32c",
        "--verify_fatal=1",
        f"--ioengine={engine}",
        f"--direct={int(direct)}",
        "--iodepth=16",
        "--verify_state_save=0",
    )


def remove_tree(tree: Path) -> None:
    run("rm", "-r", tree)
    assert not os.path.lexists(tree)
