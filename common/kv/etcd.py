"""Transactions over etcd: reads at one revision, commit as one etcd transaction guarded by compares.

etcd compares a range by the modification revisions of the keys that exist in it, so a deleted key would go unnoticed.
Therefore nothing that a transaction may have read is deleted: `clear` writes a tombstone (an empty value), and a
range compare `mod_revision <= snapshot` sees inserts, changes and deletes alike. What keeps this sound:

* Tombstones are purged (`etcd_purge`) only up to a revision that `guard` names first; a transaction whose snapshot
  is older than that fails its compare on `guard`, so a delete that it did not see cannot have been purged.
* A range with more keys than fit one etcd transaction is cleared by a real range delete, which also writes
  `clears`; every transaction compares that key, so all that were running conflict.
* After an unknown outcome the request may still be on its way. Each engine has a `fence` that all its commits
  compare; it is moved before the next attempt, and what is late then fails.

More keys than --max-txn-ops allows compares for are compared as ranges: what lies between keys that were read counts
as read, which can only add conflicts.

Layout, after the configured prefix: `k/` + key -> b"v" + value or tombstone b""; `t/` + engine id + BE64 number ->
keys of the tombstones that one commit wrote (`etcd_purge.pack_keys`); `guard` -> BE64 revision; `clears` -> b"";
`fence/` + engine id -> BE64 number.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

from threefs.common.errors import StoreError
from threefs.common.kv.buffered import KEY_END, BufferedTransaction
from threefs.common.kv.errors import KvConflict, KvLimitError, KvMaybeCommitted, KvTooOld, KvUnavailable
from threefs.common.kv.etcd_gets import EtcdGets
from threefs.common.kv.etcd_purge import Purge, pack_keys
from threefs.common.kv.etcd_rpc import EtcdMembers, rpc
from threefs.common.kv.interface import KeyValue, KvEngine, KvLimits, Transaction, key_after
from threefs.common.runtime.interface import Runtime

REQUEST_BYTES_MAX: Final = 1_500_000  # etcd's --max-request-bytes is 1.5 MiB
PAGE_PAIRS_MAX: Final = 1000
PAGE_BYTES_WANTED: Final = 2 << 20

_TOMBSTONE: Final = b""
_LIVE: Final = b"v"
_OWN_COMPARES: Final = 3  # fence, guard, clears

LIMITS: Final = KvLimits(
    key_bytes_max=4096, value_bytes_max=500_000, transaction_bytes_max=1_000_000, transaction_s_max=5.0
)


def merge_spans(spans: list[tuple[bytes, bytes]], count_max: int) -> list[tuple[bytes, bytes]]:
    """Covers sorted disjoint ranges by at most `count_max`, keeping apart those that differ earliest in their keys."""
    if len(spans) <= count_max:
        return spans
    gaps = sorted(range(1, len(spans)), key=lambda i: (_common_prefix(spans[i - 1][1], spans[i][0]), i))
    cuts = [0, *sorted(gaps[: count_max - 1]), len(spans)]
    return [(spans[low][0], spans[high - 1][1]) for low, high in pairwise(cuts)]


def _common_prefix(one: bytes, two: bytes) -> int:
    for index, (left, right) in enumerate(zip(one, two, strict=False)):
        if left != right:
            return index
    return min(len(one), len(two))


class EtcdEngine(KvEngine):
    """One process's access to a store in etcd; make it with `EtcdEngine.open`."""

    name = "etcd"
    gathers_reads = True
    limits = LIMITS

    def __init__(self, runtime: Runtime, members: EtcdMembers, prefix: bytes, ops_max: int) -> None:
        super().__init__(runtime)
        self.members = members
        self.prefix = prefix
        self.ops_max = ops_max
        self.guard_key, self.clears_key = prefix + b"guard", prefix + b"clears"
        self._id = runtime.uuid()
        self._fence = 0  # what the fence in etcd says, unless it is stale
        self._fence_lock = asyncio.Lock()
        self._fence_stale = False  # a request of ours may still be on its way
        self._tombstone_records = 0
        self.purge = Purge(members, prefix, ops_max, LIMITS.transaction_s_max, runtime)
        self._purger: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, runtime: Runtime, endpoints: tuple[str, ...], prefix: bytes, *, request_timeout_s: float, ops_max: int
    ) -> EtcdEngine:
        """Connects; KvUnavailable if no majority of the members answers."""
        engine = cls(runtime, EtcdMembers(endpoints, runtime, request_timeout_s), prefix, ops_max)
        try:
            await engine.transact(engine._create_own_keys, timeout_s=3 * request_timeout_s)
        except BaseException:
            await engine.members.close()
            raise
        engine._purger = runtime.spawn(engine.purge.run(), name="kv-purge")
        return engine

    async def _create_own_keys(self, _: Transaction) -> None:
        """Makes `guard` and this engine's fence exist, because a compare of values fails on a key that does not."""
        for key in (self.guard_key, self._fence_key()):
            missing = rpc.Compare(key=key, target=rpc.Compare.VERSION, result=rpc.Compare.EQUAL, version=0)
            put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=bytes(8)))
            await self.members.write(rpc.TxnRequest(compare=[missing], success=[put]))

    def begin(self) -> Transaction:
        return _EtcdTransaction(self)

    async def close(self) -> None:
        if self._purger is not None:
            self._purger.cancel()
            await asyncio.gather(self._purger, return_exceptions=True)
            self._purger = None
            fence = rpc.DeleteRangeRequest(key=self._fence_key())
            with suppress(StoreError):  # a few bytes stay in a cluster that is down
                await self.members.write(rpc.TxnRequest(success=[rpc.RequestOp(request_delete_range=fence)]))
        await self.members.close()

    def data_key(self, key: bytes) -> bytes:
        return self.prefix + b"k/" + key

    def data_end(self, end: bytes) -> bytes:
        """The end of a range; all that a transaction may use lies below KEY_END."""
        return self.data_key(min(end, KEY_END))

    def _fence_key(self) -> bytes:
        return self.prefix + b"fence/" + self._id

    async def settle(self) -> None:
        """Ends the doubt about earlier requests: from here on none of them can take effect any more."""
        async with self._fence_lock:
            if not self._fence_stale:
                return
            self._fence += 1  # a number is used for one attempt: that one may be on its way, too
            key, value = self._fence_key(), self._fence.to_bytes(8, "big")
            lower = rpc.Compare(key=key, target=rpc.Compare.VALUE, result=rpc.Compare.LESS, value=value)
            put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
            answer = await self.members.write(rpc.TxnRequest(compare=[lower], success=[put]))
            if not answer.succeeded:
                raise KvUnavailable(f"key {key!r} was removed from etcd by hand; restart this daemon")
            self._fence_stale = False

    def fence_compare(self) -> Any:
        return rpc.Compare(
            key=self._fence_key(),
            target=rpc.Compare.VALUE,
            result=rpc.Compare.EQUAL,
            value=self._fence.to_bytes(8, "big"),
        )

    async def commit(self, request: Any, snapshot: int) -> int:
        """Sends a transaction whose failure branch reads `guard`; returns its revision."""
        size = request.ByteSize()
        operations = max(len(request.success), len(request.compare))
        if size > REQUEST_BYTES_MAX:
            raise KvLimitError(
                f"the transaction is a request of {size} bytes; etcd takes {REQUEST_BYTES_MAX}: split it"
            )
        if operations > self.ops_max:
            raise KvLimitError(
                f"the transaction writes {operations} keys; this etcd takes {self.ops_max}: split it, or raise "
                "--max-txn-ops of its members and kv.transaction_ops_max"
            )
        try:
            answer = await self.members.write(request)
        except (KvMaybeCommitted, asyncio.CancelledError):
            self._fence_stale = True
            raise
        if answer.succeeded:
            return int(answer.header.revision)
        guard = answer.responses[0].response_range.kvs
        purged = int.from_bytes(guard[0].value, "big") if guard else 0
        if purged > snapshot:
            raise KvTooOld(f"the snapshot is at revision {snapshot}, deletes up to {purged} are purged")
        raise KvConflict(f"a key that was read at revision {snapshot} was changed")

    async def read_pairs(
        self, begin: bytes, end: bytes, *, revision: int, limit: int, reverse: bool
    ) -> tuple[list[KeyValue], int]:
        """Live pairs of [begin, end), page by page, and the revision (`revision`, or the present one if 0)."""
        low, high = self.data_key(begin), self.data_end(end)
        strip, page = len(self.data_key(b"")), PAGE_PAIRS_MAX
        pairs: list[KeyValue] = []
        while low < high and not (limit and len(pairs) >= limit):
            asked = min(page, limit - len(pairs) + 1) if limit else page
            request = rpc.RangeRequest(key=low, range_end=high, limit=asked, revision=revision)
            if reverse:
                request.sort_order, request.sort_target = rpc.RangeRequest.DESCEND, rpc.RangeRequest.KEY
            answer = await self.members.range(request)
            revision = revision or int(answer.header.revision)
            pairs += [(kv.key[strip:], kv.value[1:]) for kv in answer.kvs if kv.value != _TOMBSTONE]
            if not answer.more:
                break
            last = answer.kvs[-1].key
            low, high = (low, last) if reverse else (key_after(last), high)
            if answer.ByteSize() > PAGE_BYTES_WANTED:
                page = max(page // 2, 1)
        return (pairs[:limit] if limit else pairs), revision

    async def keys(self, begin: bytes, end: bytes, revision: int, count_max: int) -> list[bytes] | None:
        """Keys of a range, tombstones too; None if there are more than `count_max`."""
        low, high = self.data_key(begin), self.data_end(end)
        request = rpc.RangeRequest(key=low, range_end=high, limit=count_max + 1, revision=revision, keys_only=True)
        answer = await self.members.range(request)
        strip = len(self.data_key(b""))
        return None if len(answer.kvs) > count_max else [kv.key[strip:] for kv in answer.kvs]

    def tombstone_record(self, keys: list[bytes]) -> Any:
        """The entry by which `etcd_purge` finds the tombstones of one commit."""
        self._tombstone_records += 1
        key = self.prefix + b"t/" + self._id + self._tombstone_records.to_bytes(8, "big")
        return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=pack_keys(keys)))


class _EtcdTransaction(BufferedTransaction):
    def __init__(self, engine: EtcdEngine) -> None:
        super().__init__(LIMITS)
        self._engine = engine
        self._revision = 0  # of the snapshot; 0 until the first read
        self._since = 0.0
        self._first_read = asyncio.Lock()
        self._gets = EtcdGets(engine.members, engine.runtime)

    def set_versionstamped(self, prefix: bytes, value: bytes) -> None:
        Transaction.set_versionstamped(self, prefix, value)

    async def _snapshot_get(self, key: bytes) -> bytes | None:
        if self._revision:
            self._expect_young()
            raw = await self._gets.get(self._engine.data_key(key), self._revision)
            return raw[1:] if raw else None  # a tombstone is empty
        pairs = await self._snapshot_range(key, key_after(key), 1, False)
        return pairs[0][1] if pairs else None

    async def _snapshot_range(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        if self._revision == 0:
            async with self._first_read:
                if self._revision == 0:
                    return await self._read_first(begin, end, limit, reverse)
        self._expect_young()
        return await self._read(begin, end, limit, reverse)

    async def _read_first(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        await self._engine.settle()
        self._since = self._engine.runtime.now()
        return await self._read(begin, end, limit, reverse)

    async def _read(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        backwards = reverse and limit > 0  # etcd sorts the whole range for it; to read all, turn the list instead
        pairs, self._revision = await self._engine.read_pairs(
            begin, end, revision=self._revision, limit=limit, reverse=backwards
        )
        return pairs if reverse == backwards else pairs[::-1]

    def _expect_young(self) -> None:
        age = self._engine.runtime.now() - self._since
        if age > LIMITS.transaction_s_max:
            raise KvTooOld(f"the transaction is {age:.1f} s old; {LIMITS.transaction_s_max} s is the limit")

    async def _commit_writes(self) -> int:
        engine = self._engine
        await engine.settle()
        operations = await self._operations()
        if self._revision:
            self._expect_young()
        request = rpc.TxnRequest(
            compare=[engine.fence_compare(), *self._compares()],
            success=operations,
            failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=engine.guard_key))],
        )
        return await engine.commit(request, self._revision)

    def _compares(self) -> list[Any]:
        if not self._revision:
            return []
        engine, spans = self._engine, self._read_ranges
        for key in self._read_keys:
            spans.add(key, key_after(key))
        guard = rpc.Compare(
            key=engine.guard_key,
            target=rpc.Compare.VALUE,
            result=rpc.Compare.LESS,
            value=(self._revision + 1).to_bytes(8, "big"),
        )
        found = [guard, self._unchanged(engine.clears_key, b"")]
        for begin, end in merge_spans(list(spans), engine.ops_max - _OWN_COMPARES):
            found.append(self._unchanged(engine.data_key(begin), engine.data_end(end)))
        return found

    def _unchanged(self, key: bytes, range_end: bytes) -> Any:
        return rpc.Compare(
            key=key,
            range_end=range_end,
            target=rpc.Compare.MOD,
            result=rpc.Compare.LESS,
            mod_revision=self._revision + 1,
        )

    async def _operations(self) -> list[Any]:
        """Puts of the new values and tombstones; range deletes where tombstones would be too many."""
        engine = self._engine
        tombstones: list[bytes] = []
        deletes: list[Any] = []
        for begin, end in self._cleared:
            keys = await self._keys_to_clear(begin, end, engine.ops_max - len(self._writes) - len(tombstones) - 2)
            if keys is None:
                deletes += self._delete_ranges(begin, end)
            else:
                tombstones += [key for key in keys if key not in self._writes]
                self._read_ranges.add(begin, end)  # what is inserted meanwhile must be cleared too
        tombstones += [key for key, value in self._writes.items() if value is None]
        live = [(key, _LIVE + value) for key, value in self._writes.items() if value is not None]
        puts = [
            rpc.RequestOp(request_put=rpc.PutRequest(key=engine.data_key(key), value=value))
            for key, value in live + [(key, _TOMBSTONE) for key in tombstones]
        ]
        if tombstones:
            puts.append(engine.tombstone_record(tombstones))
        if deletes:
            puts.append(rpc.RequestOp(request_put=rpc.PutRequest(key=engine.clears_key)))
        return deletes + puts

    async def _keys_to_clear(self, begin: bytes, end: bytes, count_max: int) -> list[bytes] | None:
        if count_max < 1:
            return None
        if not self._revision:
            await self._read_first(begin, key_after(begin), 1, False)  # takes the snapshot
        return await self._engine.keys(begin, end, self._revision, count_max)

    def _delete_ranges(self, begin: bytes, end: bytes) -> list[Any]:
        """Deletes around the keys that are set again: etcd takes no key twice in one transaction."""
        found = []
        for key in [*sorted(key for key in self._writes if begin <= key < end), end]:
            if begin < key:
                low, high = self._engine.data_key(begin), self._engine.data_end(key)
                found.append(rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=low, range_end=high)))
            begin = key_after(key)
        return found
