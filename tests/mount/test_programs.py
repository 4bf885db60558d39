"""Real programs on a mount of the real metadata service, with chunks in memory. Whole clusters: `tests/cluster`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.mount import programs
from tests.mount.memory import MemoryMount

pytestmark = pytest.mark.mount


def test_copy_archive_and_remove_a_tree(mounted: MemoryMount) -> None:
    tree = programs.copy_tree(Path(json.__file__).parent.parent / "email", mounted.path)
    programs.tar_in_and_out(tree, mounted.path)
    programs.remove_tree(tree)
    programs.remove_tree(mounted.path / "untarred")
    assert [path.name for path in mounted.path.iterdir()] == ["tree.tar"]


def test_git(mounted: MemoryMount, tmp_path: Path) -> None:
    programs.git_clone(programs.make_repository(tmp_path, files=60), mounted.path)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite(mounted: MemoryMount, journal: str) -> None:
    programs.sqlite(mounted.path, journal=journal, rows=3000)


def test_dd(mounted: MemoryMount) -> None:
    programs.dd_with_fsync(mounted.path, mib=7)


@pytest.mark.parametrize(("engine", "direct"), [("psync", False), ("libaio", True), ("mmap", False)])
def test_fio(mounted: MemoryMount, engine: str, direct: bool) -> None:
    programs.fio_verify(mounted.path, 8, engine=engine, direct=direct)
