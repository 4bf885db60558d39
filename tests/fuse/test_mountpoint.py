"""Mount points: what is mounted where, and what may not be mounted over."""

from __future__ import annotations

from pathlib import Path

import pytest

from threefs.common.errors import UserError
from threefs.fuse.mountpoint import mounted_at, mounts, prepare

pytestmark = pytest.mark.unit


def test_the_root_is_mounted() -> None:
    assert mounted_at("/") is not None
    assert any(entry.fs_type == "proc" and entry.mountpoint == "/proc" for entry in mounts())
    assert mounted_at("/nowhere at all") is None


def test_an_empty_directory_is_taken_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real" / "mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert prepare(tmp_path / "link" / "mnt") == str(tmp_path / "real" / "mnt")


@pytest.mark.parametrize("where", ["/proc", "/sys"])
def test_a_mount_point_of_others_is_refused(where: str) -> None:
    with pytest.raises(UserError, match="already a mount point") as caught:
        prepare(Path(where))
    assert f"umount {where}" in caught.value.hint


def test_a_directory_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(UserError, match="is not empty \\(1 entries, among them 'precious'\\)"):
        prepare(tmp_path)
    assert (tmp_path / "precious").exists()
