"""Pruning of write sessions: a client that is gone cannot close its files, so the daemons do.

A session ends if its client has no session with mgmtd and it is not young. Its file gets its length from storage, as
with a close without a hint, so what the client had written stays. Sharded by the low byte of the inode.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from threefs.common.errors import FileError
from threefs.common.ids import ClientId, InodeId, SessionId
from threefs.common.kv.interface import prefix_end
from threefs.meta import metrics, store
from threefs.meta.context import Environment
from threefs.meta.lengths import settle
from threefs.meta.store import Session
from threefs.meta.view import View

_log = logging.getLogger(__name__)
SHARDS: Final = 256
_PAGE: Final = 1000

LiveClients = Callable[[], Awaitable[frozenset[ClientId] | None]]  # None: mgmtd cannot say now
Found = tuple[InodeId, SessionId, Session]


class SessionPruner:
    """One a daemon; `round` is called by its periodic task."""

    def __init__(self, env: Environment, owns: Callable[[int], bool], live_clients: LiveClients) -> None:
        self._env = env
        self._owns = owns
        self._live_clients = live_clients

    async def round(self) -> None:
        """Ends the sessions of dead clients in the shards of this daemon."""
        live: frozenset[ClientId] | None = None
        for shard in range(SHARDS):
            if not self._owns(shard):
                continue
            old = await self._old_sessions(shard)
            if old and live is None:
                live = await self._live_clients()
                if live is None:
                    return
            for inode, session, record in old:
                if live is not None and record.client not in live:
                    await prune(self._env, inode, session)

    async def _old_sessions(self, shard: int) -> list[Found]:
        newest_us = self._env.runtime.wall_us() - int(self._env.config.sessions.age_s_min * 1e6)
        begin = store.SESSION + bytes([shard])
        end = prefix_end(begin)
        found: list[Found] = []
        while True:

            async def page(view: View, begin: bytes = begin) -> list[tuple[bytes, bytes]]:
                return await view.txn.get_range(begin, end, limit=_PAGE, snapshot=True)

            pairs = await self._env.read(page)
            for key, raw in pairs:
                record = store.unpack_session(raw)
                if record.created_us <= newest_us:
                    found.append((store.inode_of_key(key), store.session_of_key(key), record))
            if len(pairs) < _PAGE:
                return found
            begin = pairs[-1][0] + b"\x00"


async def end(env: Environment, sessions: Sequence[tuple[InodeId, SessionId]]) -> None:
    """Ends sessions of files whose length is right: in one transaction, because a client closes many files a second.
    Nothing is read, so nothing conflicts; a session that is gone already stays gone."""

    async def clear(view: View) -> None:
        for inode, session in sessions:
            view.txn.clear(store.session_key(inode, session))

    await env.transact(clear)


async def prune(env: Environment, inode: InodeId, session: SessionId) -> bool:
    """Ends one session; True if it was there. A session whose file is gone is only cleared."""
    key = store.session_key(inode, session)
    if await env.read(lambda view: view.txn.get(key, snapshot=True)) is None:
        return False
    try:
        await settle(env, inode, None, end=session)
    except FileError as exc:
        _log.info("session of inode %#x without a file: %s", inode, exc)

        async def clear(view: View) -> None:
            view.txn.clear(key)

        await env.transact(clear)
    metrics.SESSIONS_PRUNED.inc()
    return True
