"""What a mount remembers of directories: for as long as it may, with its own creates, nothing from before a change."""

from __future__ import annotations

import pytest

from threefs.common.files import FileType, Inode
from threefs.common.ids import InodeId
from threefs.fuse.parents import DIRECTORIES_MAX, KnownDirectories

pytestmark = pytest.mark.unit


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def directory(number: int, mtime_us: int = 10) -> Inode:
    return Inode(InodeId(number), FileType.DIRECTORY, 0o755, 0, 0, 2, 0, 1, mtime_us, mtime_us)


def known(clock: Clock, valid_s: float = 1.0) -> KnownDirectories:
    made = KnownDirectories(clock, valid_s)
    made.note(directory(7), asked_s=clock.now_s, changes=made.changes)
    return made


def test_a_directory_is_believed_for_as_long_as_the_kernel_would() -> None:
    clock = Clock()
    directories = known(clock)
    clock.now_s += 0.75
    assert directories.find(InodeId(7)) == (directory(7), 0.25)
    clock.now_s += 0.25
    assert directories.find(InodeId(7)) is None


def test_a_new_file_is_seen_in_the_times_and_prolongs_nothing() -> None:
    clock = Clock()
    directories = known(clock)
    clock.now_s += 0.5
    directories.note_new_file(InodeId(7), 25)
    directories.note_new_file(InodeId(7), 20)  # whose answer came later
    directories.note_new_file(InodeId(8), 30)  # of which nothing is known
    assert directories.find(InodeId(7)) == (directory(7, 25), 0.5)
    assert directories.find(InodeId(8)) is None


def test_an_answer_from_before_a_change_is_not_kept() -> None:
    clock = Clock()
    directories = known(clock)
    asked = directories.changes
    directories.forget(7)
    directories.note(directory(7), asked_s=clock.now_s, changes=asked)
    assert directories.find(InodeId(7)) is None
    directories.note(directory(7), asked_s=clock.now_s, changes=directories.changes)
    asked = directories.changes
    directories.forget_all()
    directories.note(directory(7), asked_s=clock.now_s, changes=asked)
    assert directories.find(InodeId(7)) is None
    asked = directories.changes
    directories.note_new_file(InodeId(7), 30)
    directories.note(directory(7), asked_s=clock.now_s, changes=asked)
    assert directories.find(InodeId(7)) is None


def test_nothing_is_kept_without_a_timeout_or_without_bound() -> None:
    clock = Clock()
    assert known(clock, valid_s=0.0).find(InodeId(7)) is None
    directories = known(clock)
    for number in range(100, 100 + DIRECTORIES_MAX):
        directories.note(directory(number), asked_s=clock.now_s, changes=directories.changes)
    kept = [number for number in range(100 + DIRECTORIES_MAX) if directories.find(InodeId(number)) is not None]
    assert 0 < len(kept) <= DIRECTORIES_MAX
