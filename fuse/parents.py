"""What directories looked like when meta was last asked, with the changes of this mount applied.

After a create the kernel forgets the attributes of the directory and asks again before it permits the next one. The
answer is known: what meta said before, with the time of the new file. Used by `getattr` and `create`; every other
operation that changes a directory makes the mount forget it. The rule kept here: nothing is believed for longer than
the kernel itself would, counted from when meta said it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from threefs.common.files import FileType, Inode
from threefs.common.ids import InodeId

DIRECTORIES_MAX = 1024


@dataclass(slots=True)
class _Known:
    inode: Inode
    until_s: float


class KnownDirectories:
    def __init__(self, now: Callable[[], float], valid_s: float) -> None:
        self._now = now
        self._valid_s = valid_s
        self._known: dict[InodeId, _Known] = {}
        self.changes = 0  # grows with every change: an answer of meta from before one is not kept

    def find(self, number: InodeId) -> tuple[Inode, float] | None:
        """The directory, and how much longer it may be believed."""
        known = self._known.get(number)
        if known is None:
            return None
        left_s = known.until_s - self._now()
        if left_s <= 0:
            del self._known[number]
            return None
        return known.inode, left_s

    def note(self, inode: Inode, *, asked_s: float, changes: int) -> None:
        """What meta said of a directory, asked at `asked_s`, when `changes` was what it was then."""
        if inode.type is not FileType.DIRECTORY or not self._valid_s or changes != self.changes:
            return
        if len(self._known) >= DIRECTORIES_MAX:
            self._known.clear()
        self._known[inode.id] = _Known(inode, asked_s + self._valid_s)

    def note_new_file(self, directory: InodeId, time_us: int) -> None:
        """A file was created there at `time_us`, by meta's clock."""
        self.changes += 1
        known = self._known.get(directory)
        if known is not None and known.inode.mtime_us < time_us:
            known.inode = replace(known.inode, mtime_us=time_us, ctime_us=time_us)

    def forget(self, directory: int) -> None:
        """It was changed in some other way, or may have been."""
        self.changes += 1
        self._known.pop(InodeId(directory), None)

    def forget_all(self) -> None:
        """Some of them were changed, moved or removed."""
        self.changes += 1
        self._known.clear()
