"""Fixtures of the mount's tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.mount.memory import MemoryMount, memory_mount


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike tmp_path."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("mounting needs root and /dev/fuse")
    with tempfile.TemporaryDirectory(prefix="3fs-mount-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture
def mounted(folder: Path) -> Iterator[MemoryMount]:
    with memory_mount(folder) as mount:
        yield mount
        assert "bug" not in mount.log.read_text(), mount.log.read_text()
