"""The C core under the address, undefined-behaviour and thread sanitizers, driven by threads from C."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import threefs.native
from threefs.native.build_core import INNER
from threefs.native.builder import CPU, WARNINGS

pytestmark = pytest.mark.native

NATIVE = Path(threefs.native.__path__[0]).resolve()
DRIVER = Path(__file__).with_name("engine_driver.c")
PARTS = ["buffers", "crc32c", "engine", *INNER]


def build(folder: Path, sanitizer: str, source: Path = DRIVER, parts: Sequence[str] = tuple(PARTS)) -> Path:
    driver = folder / source.stem
    sources = [str(source), *(str(NATIVE / f"{part}.c") for part in parts)]
    options = ["-g", "-O1", "-std=c11", "-D_GNU_SOURCE", *CPU, *WARNINGS, "-Werror", f"-I{NATIVE}", "-pthread"]
    checks = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=undefined"]
    subprocess.run(["gcc", *options, *checks, "-o", driver, *sources, "-luring", "-llmdb"], check=True)
    return driver


def storm(tmp_path: Path, sanitizer: str, *, seeds: range, rounds: int) -> None:
    """In memory where there is a /dev/shm: the code is under test here, and a disk would only slow it down."""
    driver = build(tmp_path, sanitizer)
    shared = Path("/dev/shm")
    for seed in seeds:
        with TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
            run = subprocess.run([driver, folder, str(seed), str(rounds)], capture_output=True, text=True)
        assert run.returncode == 0, f"seed {seed}: {run.stderr[-4000:]}"


def test_a_short_storm(tmp_path: Path) -> None:
    storm(tmp_path, "address,undefined", seeds=range(1, 2), rounds=100)


def test_partitioning_and_sorting_stay_within_their_buffers(tmp_path: Path) -> None:
    source = DRIVER.with_name("shuffle_driver.c")
    driver = build(tmp_path, "address,undefined", source, ["shuffle", "record_sort"])
    run = subprocess.run([driver], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_a_long_storm(tmp_path: Path, sanitizer: str) -> None:
    storm(tmp_path, sanitizer, seeds=range(2, 12), rounds=2000)
