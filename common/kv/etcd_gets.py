"""Gathers the keys that the tasks of one transaction want at the same time into few requests.

A request to etcd costs about a millisecond whatever it asks, so a body that reads thousands of keys with
`asyncio.gather` would take seconds one by one. Rule: every key is read at the transaction's one revision.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from threefs.common.errors import ThreefsError
from threefs.common.kv.etcd_rpc import EtcdMembers, rpc
from threefs.common.runtime.interface import Runtime

KEYS_MAX: Final = 100  # a request; etcd's --max-txn-ops is 128 unless it was changed


class EtcdGets:
    """The point reads of one transaction."""

    def __init__(self, members: EtcdMembers, runtime: Runtime) -> None:
        self._members = members
        self._runtime = runtime
        self._wanted: dict[bytes, asyncio.Future[bytes | None]] = {}
        self._revision = 0

    async def get(self, key: bytes, revision: int) -> bytes | None:
        """The raw value of a key in etcd."""
        future = self._wanted.get(key)
        if future is None:
            future = self._wanted[key] = asyncio.get_running_loop().create_future()
            self._revision = revision
            if len(self._wanted) == 1:
                self._runtime.spawn(self._fetch(), name="kv-get")
        return await asyncio.shield(future)

    async def _fetch(self) -> None:
        """Runs after every task that is ready now has said what it wants."""
        wanted, self._wanted = self._wanted, {}
        keys = list(wanted)
        batches = [keys[first : first + KEYS_MAX] for first in range(0, len(keys), KEYS_MAX)]
        await asyncio.gather(*(self._fetch_batch({key: wanted[key] for key in batch}) for batch in batches))

    async def _fetch_batch(self, wanted: dict[bytes, asyncio.Future[bytes | None]]) -> None:
        try:
            values = await self._read(list(wanted))
        except ThreefsError as exc:
            for future in wanted.values():
                future.set_exception(exc)
                future.exception()  # a waiter that was cancelled does not fetch it
        except BaseException:
            for future in wanted.values():
                future.cancel()
            raise
        else:
            for future, value in zip(wanted.values(), values, strict=True):
                future.set_result(value)

    async def _read(self, keys: list[bytes]) -> list[bytes | None]:
        ranges = [rpc.RangeRequest(key=key, revision=self._revision) for key in keys]
        answers: list[Any] = [await self._members.range(ranges[0])] if len(keys) == 1 else await self._read_all(ranges)
        return [answer.kvs[0].value if answer.kvs else None for answer in answers]

    async def _read_all(self, ranges: list[Any]) -> list[Any]:
        request = rpc.TxnRequest(success=[rpc.RequestOp(request_range=each) for each in ranges])
        answer = await self._members.read_transaction(request)
        return [each.response_range for each in answer.responses]
