"""Lookups from the receiving threads of mounts, most of them answered before the next request is read.

Served beside `MetaService` (bodies: `threefs.proto.lookup`). The rule kept here: the answer is that of `stat` on the
same place; what it takes more for than the store's snapshot and the caller's ids is left to that.
"""

from __future__ import annotations

import stat
from collections.abc import Coroutine
from typing import Any, TypeVar

from threefs.common.errors import Corrupt, ThreefsError
from threefs.common.files import Credentials, FileType, Inode
from threefs.common.ids import InodeId
from threefs.common.net.interface import Reply, Request
from threefs.meta import metrics
from threefs.meta.access import EXECUTE, may
from threefs.meta.context import Environment
from threefs.meta.view import View
from threefs.proto.lookup import ASK_IN_FULL, FOUND, NO_SUCH_NAME, Ask, Attributes, Malformed, pack_answer, unpack_ask

T = TypeVar("T")
_BLOCK = 512
_IN_FULL = pack_answer(ASK_IN_FULL)
_NO_SUCH_NAME = pack_answer(NO_SUCH_NAME)


class QuickLookup:
    """A handler of `threefs.proto.lookup.METHOD`."""

    def __init__(self, env: Environment) -> None:
        self._env = env

    def at_once(self, request: Request) -> Reply | None:
        """The answer if the store gives it without waiting, else None."""
        if self._env.engine.gathers_reads:  # it is asked over the network
            return None
        try:
            body = _without_waiting(self._answer(request))
        except ThreefsError:
            return None  # raised again where it becomes an answer
        return None if body is None else Reply(body)

    async def __call__(self, request: Request) -> Reply:
        return Reply(await self._answer(request))

    async def _answer(self, request: Request) -> bytes:
        try:
            ask = unpack_ask(request.body)
        except Malformed as exc:
            raise Corrupt(f"from {request.peer}: {exc}") from exc
        if self._env.config.authenticate or ask.name in (b".", b"..") or b"/" in ask.name:
            return _IN_FULL
        now = self._env.runtime.now
        began = now()
        result = await self._env.read(lambda view: _look(view, ask))
        count, duration = metrics.of_operation("lookup", "ok")
        count.inc()
        duration.observe(now() - began)
        return result


async def _look(view: View, ask: Ask) -> bytes:
    """`resolve.find` of one name, without what it does for paths and links."""
    parent = InodeId(ask.parent)
    user = Credentials(ask.uid, ask.gid)
    entry = await view.entry(parent, ask.name)
    if entry is None or user.uid:  # root needs no look at the directory of a name that is there
        directory = await view.find_record(parent)
        if directory is None or directory.type is not FileType.DIRECTORY or not _may_search(directory, user):
            return _IN_FULL
    inode = None if entry is None else await view.find_inode(entry.inode)
    return _NO_SUCH_NAME if inode is None else pack_answer(FOUND, attributes_of(inode))


def _may_search(directory: Inode, user: Credentials) -> bool:
    """False also where it is for the caller's other groups to say."""
    if user.uid not in (0, directory.uid) and user.gid != directory.gid:
        group, others = directory.mode & stat.S_IXGRP, directory.mode & stat.S_IXOTH
        return bool(group and others)
    return may(directory, user, EXECUTE)


def attributes_of(inode: Inode) -> Attributes:
    """As `fuse.bridge` tells them to the kernel."""
    size = len(inode.symlink.encode(errors="surrogateescape")) if inode.type is FileType.SYMLINK else inode.length
    blocks = -(-inode.length // _BLOCK) if inode.type is FileType.FILE else 0
    return Attributes(
        inode.id,
        size,
        blocks,
        inode.rdev,
        inode.atime_us,
        inode.mtime_us,
        inode.ctime_us,
        inode.st_mode,
        inode.nlink,
        inode.uid,
        inode.gid,
    )


def _without_waiting(work: Coroutine[Any, Any, T]) -> T | None:
    """What it returns, if it never waits; None, and it is broken off, if it would."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    return None
