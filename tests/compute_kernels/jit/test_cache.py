"""The cubin cache: what it returns, what it refuses, and many writers at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from threefs.compute_kernels.jit import cache
from threefs.compute_kernels.jit.compiler import Compiled, KernelSource
from threefs.compute_kernels.jit.wgmma import Wgmma

pytestmark = pytest.mark.kernels


def test_a_stored_kernel_comes_back_whole(tmp_path: Path) -> None:
    compiled = Compiled(bytes(range(256)) * 100, "Used 42 registers, log with\nlines")
    assert cache.load("ab" * 32, tmp_path) is None
    assert cache.store("ab" * 32, compiled, tmp_path)
    assert cache.load("ab" * 32, tmp_path) == compiled
    assert [path.name for path in tmp_path.iterdir()] == ["ab" * 32 + ".cubin"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_entry_is_a_miss_and_can_be_replaced(tmp_path: Path, damage: str) -> None:
    compiled = Compiled(b"cubin" * 1000, "log")
    cache.store("cd" * 32, compiled, tmp_path)
    path = tmp_path / ("cd" * 32 + ".cubin")
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 1
    path.write_bytes({"truncate": bytes(raw[: len(raw) // 2]), "flip": bytes(raw), "empty": b""}[damage])
    assert cache.load("cd" * 32, tmp_path) is None
    assert cache.store("cd" * 32, compiled, tmp_path)
    assert cache.load("cd" * 32, tmp_path) == compiled


def test_an_unwritable_folder_costs_the_cache_and_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert cache.store("ef" * 32, Compiled(b"x", "y"), blocked) is False
    assert cache.load("ef" * 32, blocked) is None


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("THREEFS_KERNEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("DG_JIT_CACHE_DIR", str(tmp_path / "dg"))
    assert cache.cache_folder() == tmp_path / "dg"
    monkeypatch.setenv("THREEFS_KERNEL_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("THREEFS_KERNEL_CACHE")
    monkeypatch.delenv("DG_JIT_CACHE_DIR")
    assert cache.cache_folder() == tmp_path / "xdg" / "3fs" / "kernels"


def _write_and_read(folder: Path) -> None:
    compiled = Compiled(b"same cubin" * 5000, "same log")
    for _ in range(40):
        cache.store("12" * 32, compiled, folder)
        assert cache.load("12" * 32, folder) == compiled


def test_processes_that_write_the_same_entry_never_see_half_of_it(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_and_read, args=(tmp_path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=200)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["12" * 32 + ".cubin"]


def _source(folder: Path, text: str = "kernel", constants: tuple[tuple[str, int], ...] = (("A", 1),)) -> KernelSource:
    folder.mkdir(exist_ok=True)
    (folder / "k.cu").write_text(text)
    return KernelSource(folder / "k.cu", "k", constants, (Wgmma("e4m3", 64),))


def test_the_fingerprint_changes_with_all_that_decides_the_cubin(tmp_path: Path) -> None:
    base = _source(tmp_path / "a").fingerprint("nvrtc 13.0")
    assert _source(tmp_path / "b").fingerprint("nvrtc 13.0") == base, "the folder's name decides nothing"
    assert _source(tmp_path / "a").fingerprint("nvrtc 13.1") != base
    assert _source(tmp_path / "c", text="kernel ").fingerprint("nvrtc 13.0") != base
    assert _source(tmp_path / "d", constants=(("A", 2),)).fingerprint("nvrtc 13.0") != base
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "extra.cuh").write_text("// another header")
    assert _source(tmp_path / "e").fingerprint("nvrtc 13.0") != base
    wider = KernelSource(tmp_path / "a" / "k.cu", "k", (("A", 1),), (Wgmma("e4m3", 72),))
    assert wider.fingerprint("nvrtc 13.0") != base
