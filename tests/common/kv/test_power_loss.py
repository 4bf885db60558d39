"""Power loss of the embedded store: what it acknowledged survives a crash after any write or sync.

kill -9 keeps the page cache, so it proves nothing about syncs. Here every write and sync of a workload is recorded
(`power_loss/recorder.c`), and the store is opened from every prefix with unsynced writes lost, kept or torn.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.native

HERE = Path(__file__).parent / "power_loss"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of one run of the workload."""
    folder = tmp_path_factory.mktemp("power-loss")
    recorder = folder / "recorder.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-pthread"]
    source = str(HERE / "recorder.c")
    subprocess.run(["cc", *flags, "-D_GNU_SOURCE", "-o", str(recorder), source], check=True)
    environment = os.environ | {"LD_PRELOAD": str(recorder), "RECORDER_LOG": str(folder / "log")}
    subprocess.run([sys.executable, str(HERE / "workload.py"), str(folder / "kv")], env=environment, check=True)
    return folder / "log"


def check(log: Path, *left_out: int) -> subprocess.CompletedProcess[str]:
    """Runs check.py; its stores live in memory where that is possible, because nobody pulls the plug on them."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as scratch:
        command = [sys.executable, str(HERE / "check.py"), str(log), scratch, *map(str, left_out)]
        return subprocess.run(command, capture_output=True, text=True, timeout=250)


def test_every_prefix_recovers_what_was_acknowledged(log: Path) -> None:
    done = check(log)
    assert done.returncode == 0, done.stdout + done.stderr
    events, images = map(int, re.findall(r"\d+", done.stdout))
    assert events > 200
    assert images > events


def test_a_sync_that_is_left_out_is_found(log: Path) -> None:
    """Ablation: without any one of its syncs the store loses or damages something, and the check says so."""
    syncs = [index for index, kind in enumerate(kinds(log)) if kind == "s"]
    for left_out in (syncs[len(syncs) // 3], syncs[-2]):
        done = check(log, left_out)
        assert done.returncode != 0, f"sync {left_out} was left out and nothing noticed: {done.stdout}"


def kinds(log: Path) -> list[str]:
    """The kind of each event, by the layout that recorder.c documents."""
    raw, at, found = log.read_bytes(), 0, []
    while at < len(raw):
        found.append(chr(raw[at]))
        at += 13 + int.from_bytes(raw[at + 9 : at + 13], "little")
    return found
