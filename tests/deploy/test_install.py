"""The package installs as a package: whole, and from anywhere, not only as links into a checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = sorted(path.name for path in (ROOT / "src" / "threefs").iterdir() if path.is_symlink())
FILES = {".py", ".pyi", ".typed", ".proto", ".c", ".h", ".cu", ".cuh", ".html"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a wheel is made of, without anything built. (setuptools overlooks much in a path with "build" in it.)"""
    copy = tmp_path / "tree"
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        copy.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        (copy / "src" / "threefs").mkdir(parents=True, exist_ok=True)
        (copy / "src" / "threefs" / room).symlink_to(Path("../..") / room)
    return copy


def build(tree: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "-q", *command],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_wheel_takes_every_file_of_every_room(tree: Path, tmp_path: Path) -> None:
    build(tree, "egg_info")  # as installers do, to learn what the build needs
    build(tree, "build_py", "--build-lib", str(tmp_path / "lib"))
    wanted = {path.relative_to(tree) for room in ROOMS for path in (tree / room).rglob("*") if path.suffix in FILES}
    built = {path.relative_to(tmp_path / "lib" / "threefs") for path in (tmp_path / "lib").rglob("*")}
    assert len(wanted) > 300
    assert not wanted - built


@pytest.mark.proof
def test_an_installed_wheel_runs_a_cluster(tree: Path, tmp_path: Path) -> None:
    build(tree, "egg_info")
    build(tree, "bdist_wheel")
    (wheel,) = (tree / "dist").glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "THREEFS_DIR": str(tmp_path / "cluster")}
    command = [sys.executable, "-c", "import threefs.cli.main as m; print(m.__file__); m.main()", "dev"]
    for verb in ("up", "status", "down"):
        done = subprocess.run(
            [*command, verb], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(str(tmp_path / "site"))


def test_the_command_says_its_version() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "threefs.cli.main", "--version"], capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert told.stdout == f"3fs {project['version']}\n"
