"""A client that works on names of its own in directories that all share, and keeps a model of what it was told."""

from __future__ import annotations

import errno
import os
from random import Random

from tests.meta.harness import CHUNK, Room

from threefs.client.meta.client import MetaClient
from threefs.client.meta.types import LengthHint, RenameFlags
from threefs.common.errors import FileError
from threefs.common.files import Inode
from threefs.common.ids import ROOT_INODE, InodeId

DIRECTORIES = ("/a", "/b", "/a/sub")


class Worker:
    """One client and its model: path -> (inode, length)."""

    def __init__(self, room: Room, number: int) -> None:
        self.room = room
        self.client: MetaClient = room.new_client()
        self.random = Random(f"{room.seed}/{number}")
        self.number = number
        self.files: dict[str, tuple[InodeId, int]] = {}
        self.serial = 0

    def fresh(self) -> str:
        self.serial += 1
        return f"{self.random.choice(DIRECTORIES)}/w{self.number}-{self.serial}"

    async def run(self, steps: int) -> None:
        steps_of = (self.create, self.create, self.rename, self.unlink, self.link, self.truncate, self.shared)
        for _ in range(steps):
            await self.random.choice(steps_of)()

    async def create(self) -> None:
        path = self.fresh()
        opened = await self.client.create(ROOT_INODE, path, flags=os.O_WRONLY | os.O_EXCL)
        length = self.random.randrange(3 * CHUNK)
        assert opened.inode.layout is not None
        self.room.write(opened.inode.id, opened.inode.layout.chains, length)
        hint = LengthHint(length, 0, 1) if self.random.random() < 0.7 else None
        await self.client.close(opened.inode.id, opened.session, hint)
        self.files[path] = (opened.inode.id, length)

    def pick(self) -> str | None:
        return self.random.choice(sorted(self.files)) if self.files else None

    async def rename(self) -> None:
        source, other = self.pick(), self.pick()
        if source is None or other is None:
            return
        kind = self.random.randrange(3)
        target = self.fresh() if kind == 0 else other
        flags = RenameFlags.EXCHANGE if kind == 1 else RenameFlags.NONE
        await self.client.rename(ROOT_INODE, source, ROOT_INODE, target, flags=flags)
        if kind == 1:
            self.files[source], self.files[target] = self.files[target], self.files[source]
        elif target not in self.files or self.files[target][0] != self.files[source][0]:
            self.files[target] = self.files.pop(source)

    async def unlink(self) -> None:
        path = self.pick()
        if path is not None:
            await self.client.unlink(ROOT_INODE, path)
            del self.files[path]

    async def link(self) -> None:
        path = self.pick()
        if path is not None:
            target = self.fresh()
            await self.client.link(self.files[path][0], ROOT_INODE, target)
            self.files[target] = self.files[path]

    async def truncate(self) -> None:
        path = self.pick()
        if path is not None:
            id = self.files[path][0]
            length = self.random.randrange(2 * CHUNK)
            await self.client.truncate(id, length)
            for other, (inode, _) in self.files.items():
                if inode == id:
                    self.files[other] = (id, length)

    async def shared(self) -> None:
        """Directories that everybody makes, moves and removes: the outcome depends on the others."""
        name = f"/a/shared{self.random.randrange(3)}"
        other = f"/b/shared{self.random.randrange(3)}"
        await self._shared_step(name, other)

    async def _shared_step(self, name: str, other: str) -> None:
        client, kind = self.client, self.random.randrange(6)
        try:
            if kind == 0:
                await client.mkdir(ROOT_INODE, name)
            elif kind == 1:
                await client.rmdir(ROOT_INODE, name)
            elif kind == 2:
                await client.rename(ROOT_INODE, name, ROOT_INODE, other)
            elif kind == 3:
                await client.rename(ROOT_INODE, other, ROOT_INODE, f"{name}/in")
            elif kind == 4:
                await client.remove_recursive(ROOT_INODE, other)
            else:
                await client.symlink(ROOT_INODE, f"{name}/x{self.number}", "y")
        except FileError as exc:
            if exc.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL, errno.ENOTDIR):
                raise

    async def compare(self) -> None:
        for path, (id, length) in self.files.items():
            found: Inode = await self.client.stat_path(path)
            assert (found.id, found.length) == (id, length), path
