"""Deletes tombstones for good once no transaction can need them. Runs in every process that uses an etcd store.

Rule: `guard` names a revision before any tombstone up to it is deleted, and only revisions that were present longer ago
than a transaction may last. Several purgers may run at once: each delete checks that the tombstone is still that one.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from typing import Any, Final

from threefs.common.errors import StoreError, TransientError
from threefs.common.kv.etcd_rpc import EtcdMembers, rpc
from threefs.common.kv.interface import prefix_end
from threefs.common.runtime.interface import Runtime

INTERVAL_FACTOR: Final = 2.0  # times the longest transaction
RECORDS_MAX: Final = 1000  # read at once

_LENGTH: Final = struct.Struct(">H")
_log = logging.getLogger(__name__)


def pack_keys(keys: list[bytes]) -> bytes:
    """The value of a tombstone record: BE16 length and key, one after the other."""
    return b"".join(_LENGTH.pack(len(key)) + key for key in keys)


def unpack_keys(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size + length
        yield raw[at - length : at]


class Purge:
    """The purger of one engine."""

    def __init__(
        self, members: EtcdMembers, prefix: bytes, ops_max: int, transaction_s_max: float, runtime: Runtime
    ) -> None:
        self._members = members
        self._prefix = prefix
        self._batch = max((ops_max - 1) // 2, 1)
        self._interval_s = INTERVAL_FACTOR * transaction_s_max
        self._runtime = runtime

    async def run(self) -> None:
        """Purges for ever; an interval after a revision was present, what was deleted before it is purged."""
        revision = 0
        while True:
            try:
                if revision:
                    await self.purge(revision)
                revision = await self._present_revision()
            except (StoreError, TransientError) as exc:
                _log.info("tombstones stay for now: %s", exc)
            await self._runtime.sleep(self._runtime.jitter(self._interval_s))

    async def _present_revision(self) -> int:
        answer = await self._members.range(rpc.RangeRequest(key=self._prefix + b"guard", count_only=True))
        return int(answer.header.revision)

    async def purge(self, revision: int) -> int:
        """Deletes the tombstones written up to `revision`; returns how many records of them there were."""
        await self._raise_guard(revision)
        total = 0
        while records := await self._records(revision):
            total += len(records)
            for record in records:
                await self._purge_record(record)
        return total

    async def _raise_guard(self, revision: int) -> None:
        key, value = self._prefix + b"guard", revision.to_bytes(8, "big")
        lower = rpc.Compare(key=key, target=rpc.Compare.VALUE, result=rpc.Compare.LESS, value=value)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
        await self._members.write(rpc.TxnRequest(compare=[lower], success=[put]))

    async def _records(self, revision: int) -> list[Any]:
        first = self._prefix + b"t/"
        request = rpc.RangeRequest(key=first, range_end=prefix_end(first), limit=RECORDS_MAX, max_mod_revision=revision)
        return list((await self._members.range(request)).kvs)

    async def _purge_record(self, record: Any) -> None:
        """Deletes each key that has not been written since the record, then the record."""
        keys = [self._prefix + b"k/" + key for key in unpack_keys(record.value)]
        for first in range(0, len(keys), self._batch):
            deletes = [_delete_if(key, record.mod_revision) for key in keys[first : first + self._batch]]
            await self._members.write(rpc.TxnRequest(success=deletes))
        drop = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=record.key))
        await self._members.write(rpc.TxnRequest(success=[drop]))


def _delete_if(key: bytes, mod_revision: int) -> Any:
    same = rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=mod_revision)
    delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
    return rpc.RequestOp(request_txn=rpc.TxnRequest(compare=[same], success=[delete]))
