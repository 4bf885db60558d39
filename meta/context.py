"""What an operation is handed: the daemon's parts (`Environment`) and who asks for what (`Context`).

`Context.mutate` is the one way to change the namespace. It keeps the rule that a request which is sent again is
carried out once: the outcome is recorded under the request's id in the same transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from threefs.client.storage.types import StorageClient
from threefs.common.errors import BadRequest
from threefs.common.files import Credentials, Inode
from threefs.common.ids import ClientId, RequestId
from threefs.common.kv.interface import KvEngine, Transaction
from threefs.common.routing import Routing
from threefs.common.runtime.interface import Runtime
from threefs.meta import store
from threefs.meta.allocator import InodeAllocator
from threefs.meta.config import ServiceConfig
from threefs.meta.layout import LayoutPicker
from threefs.meta.locks import KeyedLocks
from threefs.meta.store import Outcome
from threefs.meta.view import View

T = TypeVar("T")
Done = tuple[Outcome, Inode | None]  # what a mutation did, and the inode as it is now (None: gone meanwhile)


class Environment:
    """One daemon's parts. Every operation and background task works on them; none keeps state between requests."""

    def __init__(
        self,
        config: ServiceConfig,
        *,
        runtime: Runtime,
        engine: KvEngine,
        storage: StorageClient,
        routing: Callable[[], Routing],
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.engine = engine
        self.storage = storage
        self.routing = routing
        self.ids = InodeAllocator(runtime, engine)
        self.layouts = LayoutPicker(runtime, routing)
        self.locks = KeyedLocks()
        self.wake_collector: Callable[[], None] = lambda: None

    async def read(self, body: Callable[[View], Awaitable[T]]) -> T:
        """Runs a body that only reads, at one snapshot."""
        return await self.engine.read(lambda txn: body(View(txn)), timeout_s=self.config.tuning.transaction_s)

    async def each(self, reads: Iterable[Awaitable[T]]) -> list[T]:
        """The results of many reads of one transaction: together where that saves round trips, else one by one, which
        costs no task each."""
        if self.engine.gathers_reads:
            return await asyncio.gather(*reads)
        return [await read for read in reads]

    async def transact(self, body: Callable[[View], Awaitable[T]]) -> T:
        """Runs a body that may safely run twice: background work, and what is idempotent by nature."""
        return await self.engine.transact(lambda txn: body(View(txn)), timeout_s=self.config.tuning.transaction_s)


@dataclass(slots=True)
class Context:
    """One request."""

    env: Environment
    user: Credentials
    client: ClientId
    request: RequestId
    now_us: int

    async def read(self, body: Callable[[View], Awaitable[T]]) -> T:
        return await self.env.read(body)

    async def mutate(self, body: Callable[[View], Awaitable[Done]]) -> Done:
        """Runs `body` in a transaction, unless this request was carried out before: then its outcome is returned.

        `body` runs again after a conflict, and after a commit whose outcome is unknown: it finds its own record then.
        A body that raises has no effect and leaves no record.
        """
        self.check_request()
        key = store.request_key(self.request)

        async def attempt(txn: Transaction) -> Done:
            view = View(txn)
            known = await txn.get(key)  # conflicts with the same request in another daemon
            if known is not None:
                outcome = store.unpack_outcome(known)
                return outcome, await view.find_inode(outcome.inode)
            done = await body(view)
            txn.set(key, store.pack_outcome(done[0]))
            return done

        return await self.env.engine.transact(attempt, timeout_s=self.env.config.tuning.transaction_s)

    def check_request(self) -> None:
        """A request as old as its record could already be cleaned, so that it would be carried out again."""
        if len(self.request) != 16:
            raise BadRequest(f"a request id has 16 bytes, this one {len(self.request)}")
        off_s = (store.request_time_us(self.request) - self.now_us) / 1e6
        allowed_s = self.env.config.tuning.request_record_s / 2
        if abs(off_s) > allowed_s:
            raise BadRequest(
                f"the request's time is {off_s:+.0f} s off, {allowed_s:.0f} s are allowed; "
                "compare the clocks of the client and of the metadata daemon"
            )
