"""The contract of `common.kv.interface`, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from threefs.common.errors import InternalError, Unsupported
from threefs.common.kv.errors import KvConflict, KvLimitError, KvTooOld
from threefs.common.kv.interface import KvEngine, Transaction

pytestmark = pytest.mark.unit


async def put(engine: KvEngine, pairs: dict[bytes, bytes]) -> None:
    async def body(txn: Transaction) -> None:
        for key, value in pairs.items():
            txn.set(key, value)

    await engine.transact(body)


async def dump(engine: KvEngine, begin: bytes = b"\x00", end: bytes = b"\xff") -> dict[bytes, bytes]:
    async def body(txn: Transaction) -> dict[bytes, bytes]:
        return dict(await txn.get_range(begin, end))

    return await engine.read(body)


def test_writes_are_seen_after_commit_and_after_a_restart(store) -> None:
    async def write() -> None:
        txn = store.engine.begin()
        txn.set(b"a", b"1")
        txn.set(b"empty", b"")
        assert await dump(store.engine) == {}
        assert await txn.commit() > 0
        assert await dump(store.engine) == {b"a": b"1", b"empty": b""}

    store.run(write())
    store.reopen()
    assert store.run(dump(store.engine)) == {b"a": b"1", b"empty": b""}


def test_commit_versions_grow_and_a_read_has_none(store) -> None:
    async def body() -> None:
        versions = []
        for value in (b"1", b"2", b"3"):
            txn = store.engine.begin()
            txn.set(b"a", value)
            versions.append(await txn.commit())
        assert versions == sorted(set(versions))
        reader = store.engine.begin()
        assert await reader.get(b"a") == b"3"
        assert await reader.commit() == 0

    store.run(body())


def test_versions_grow_over_a_restart(store) -> None:
    async def write() -> int:
        txn = store.engine.begin()
        txn.set(b"a", b"1")
        return await txn.commit()

    before = store.run(write())
    store.reopen()
    assert store.run(write()) > before


def test_a_snapshot_does_not_move(store) -> None:
    async def body() -> None:
        await put(store.engine, {b"a": b"1", b"b": b"1", b"c": b"1"})
        reader = store.engine.begin()
        assert await reader.get(b"a") == b"1"
        writer = store.engine.begin()
        writer.set(b"b", b"2")
        writer.clear(b"c")
        writer.set(b"d", b"2")
        await writer.commit()
        assert await reader.get(b"b") == b"1"
        assert await reader.get_range(b"a", b"z") == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]
        assert await reader.get_range(b"a", b"z", limit=1, reverse=True) == [(b"c", b"1")]
        assert await reader.commit() == 0
        assert await dump(store.engine) == {b"a": b"1", b"b": b"2", b"d": b"2"}

    store.run(body())


def test_own_writes_are_seen(store) -> None:
    async def body() -> None:
        await put(store.engine, {b"k%d" % i: b"old" for i in range(8)})
        txn = store.engine.begin()
        txn.set(b"k1", b"new")
        txn.clear(b"k2")
        txn.clear_range(b"k4", b"k6")
        txn.set(b"k5", b"back")
        txn.set(b"k9", b"fresh")
        assert await txn.get(b"k1") == b"new"
        assert await txn.get(b"k2") is None
        assert await txn.get(b"k4") is None
        assert await txn.get(b"k5") == b"back"
        expected = [(b"k0", b"old"), (b"k1", b"new"), (b"k3", b"old"), (b"k5", b"back")]
        expected += [(b"k6", b"old"), (b"k7", b"old"), (b"k9", b"fresh")]
        assert await txn.get_range(b"k", b"l") == expected
        for limit in range(1, 9):
            assert await txn.get_range(b"k", b"l", limit=limit) == expected[:limit]
            assert await txn.get_range(b"k", b"l", limit=limit, reverse=True) == expected[::-1][:limit]
        await txn.commit()
        assert await dump(store.engine) == dict(expected)

    store.run(body())


async def clash(
    engine: KvEngine,
    read: Callable[[Transaction], Awaitable[object]],
    write: Callable[[Transaction], None],
) -> bool:
    """Whether a transaction that reads, then writes elsewhere, conflicts with `write` committed in between."""
    await put(engine, {b"r%d" % i: b"%d" % i for i in range(0, 10, 2)})
    first, second = engine.begin(), engine.begin()
    await first.get(b"elsewhere", snapshot=True)  # takes the snapshot
    await read(first)
    write(second)
    await second.commit()
    first.set(b"out", b"1")
    try:
        await first.commit()
    except KvConflict:
        assert await dump(engine, b"out", b"ouu") == {}
        return True
    return False


READS: dict[str, Callable[[Transaction], Awaitable[object]]] = {
    "get": lambda t: t.get(b"r4"),
    "get of a missing key": lambda t: t.get(b"r5"),
    "range": lambda t: t.get_range(b"r2", b"r8"),
    "empty range": lambda t: t.get_range(b"r40", b"r6"),
    "first two": lambda t: t.get_range(b"r2", b"r9", limit=2),
    "last two": lambda t: t.get_range(b"r0", b"r7", limit=2, reverse=True),
    "snapshot get": lambda t: t.get(b"r4", snapshot=True),
    "snapshot range": lambda t: t.get_range(b"r0", b"r9", snapshot=True),
}


@pytest.mark.parametrize(
    ("read", "write", "conflicts"),
    [
        ("get", lambda t: t.set(b"r4", b"x"), True),
        ("get", lambda t: t.clear(b"r4"), True),
        ("get", lambda t: t.clear_range(b"r3", b"r5"), True),
        ("get", lambda t: t.set(b"r6", b"x"), False),
        ("get of a missing key", lambda t: t.set(b"r5", b"x"), True),
        ("get of a missing key", lambda t: t.set(b"r6", b"x"), False),
        ("range", lambda t: t.set(b"r4", b"x"), True),
        ("range", lambda t: t.set(b"r5", b"phantom"), True),
        ("range", lambda t: t.clear(b"r2"), True),
        ("range", lambda t: t.clear(b"r4"), True),
        ("range", lambda t: t.clear(b"r6"), True),
        ("range", lambda t: t.clear_range(b"r5", b"r7"), True),
        ("range", lambda t: t.set(b"r8", b"x"), False),
        ("range", lambda t: t.clear(b"r0"), False),
        ("empty range", lambda t: t.set(b"r5", b"phantom"), True),
        ("empty range", lambda t: t.set(b"r6", b"x"), False),
        ("first two", lambda t: t.set(b"r3", b"phantom"), True),
        ("first two", lambda t: t.clear(b"r4"), True),
        ("first two", lambda t: t.set(b"r5", b"x"), False),
        ("first two", lambda t: t.clear(b"r6"), False),
        ("last two", lambda t: t.set(b"r5", b"phantom"), True),
        ("last two", lambda t: t.clear(b"r4"), True),
        ("last two", lambda t: t.set(b"r3", b"x"), False),
        ("last two", lambda t: t.clear(b"r2"), False),
        ("snapshot get", lambda t: t.set(b"r4", b"x"), False),
        ("snapshot range", lambda t: t.set(b"r4", b"x"), False),
    ],
)
def test_conflicts(store, read: str, write: Callable[[Transaction], None], conflicts: bool) -> None:
    assert store.run(clash(store.engine, READS[read], write)) is conflicts


def test_declared_conflicts(store) -> None:
    async def key(txn: Transaction) -> None:
        txn.add_read_conflict_key(b"r4")

    async def span(txn: Transaction) -> None:
        txn.add_read_conflict_range(b"r3", b"r5")

    async def body() -> None:
        assert await clash(store.engine, key, lambda t: t.set(b"r4", b"x"))
        assert await clash(store.engine, span, lambda t: t.set(b"r40", b"x"))
        assert not await clash(store.engine, key, lambda t: t.set(b"r5", b"x"))
        assert not await clash(store.engine, span, lambda t: t.set(b"r5", b"x"))

    store.run(body())


def test_changed_and_changed_back_is_a_conflict(store) -> None:
    async def body() -> None:
        await put(store.engine, {b"a": b"1"})
        txn = store.engine.begin()
        await txn.get_range(b"a", b"c")
        for change in (lambda t: t.set(b"b", b"1"), lambda t: t.clear(b"b")):  # inserted, then deleted again
            other = store.engine.begin()
            change(other)
            await other.commit()
        txn.set(b"out", b"1")
        with pytest.raises(KvConflict):
            await txn.commit()

    store.run(body())


def test_blind_writes_do_not_conflict(store) -> None:
    async def body() -> None:
        first, second = store.engine.begin(), store.engine.begin()
        await first.get(b"other")
        first.set(b"a", b"1")
        second.set(b"a", b"2")
        await second.commit()
        await first.commit()
        assert await dump(store.engine) == {b"a": b"1"}

    store.run(body())


def test_own_commit_is_no_conflict_for_the_next(store) -> None:
    async def bump(txn: Transaction) -> None:
        txn.set(b"n", b"%d" % (int(await txn.get(b"n") or b"0") + 1))
        txn.set(b"list/%d" % len(await txn.get_range(b"list/", b"list0")), b"")

    async def body() -> None:
        for _ in range(5):
            await store.engine.transact(bump, timeout_s=0.0001)  # no second attempt
        assert (await dump(store.engine))[b"n"] == b"5"

    store.run(body())


def test_five_thousand_keys_in_one_transaction(store) -> None:
    keys = [b"many/%05d" % i for i in range(5000)]

    async def sum_up(txn: Transaction) -> None:
        assert await txn.get(b"total") in (None, b"5000")
        values = await asyncio.gather(*(txn.get(key) for key in keys))  # each a conflict key of its own
        txn.set(b"total", b"%d" % sum(int(value or b"0") for value in values))

    async def body() -> None:
        for first in range(0, 5000, 1000):
            for low in range(first, first + 1000, 100):
                await put(store.engine, dict.fromkeys(keys[low : low + 100], b"1"))
        pairs = await dump(store.engine, b"many/", b"many0")
        assert list(pairs) == keys
        await store.engine.transact(sum_up, timeout_s=60)
        assert (await dump(store.engine, b"total", b"total\xff"))[b"total"] == b"5000"
        for change in (lambda t: t.set(keys[4321], b"2"), lambda t: t.clear(keys[1234])):
            with pytest.raises(KvConflict):
                await overtaken(change)

    async def overtaken(change: Callable[[Transaction], None]) -> None:
        """Commits a transaction that another one has overtaken; a busy machine may need more than one attempt."""
        for _ in range(5):
            txn, other = store.engine.begin(), store.engine.begin()
            with suppress(KvTooOld):
                await sum_up(txn)
                change(other)
                await other.commit()
                await txn.commit()
            txn.cancel()

    store.run(body())


def test_five_thousand_keys_read_as_one_range(store) -> None:
    async def body() -> None:
        for low in range(0, 5000, 100):
            await put(store.engine, {b"many/%05d" % i: b"x" * 100 for i in range(low, low + 100)})
        txn, other = store.engine.begin(), store.engine.begin()
        pairs = await txn.get_range(b"many/", b"many0")
        assert len(pairs) == 5000
        assert pairs[4999] == (b"many/04999", b"x" * 100)
        assert await txn.get_range(b"many/", b"many0", reverse=True) == pairs[::-1]
        other.clear(b"many/02500")
        await other.commit()
        txn.set(b"out", b"1")
        with pytest.raises(KvConflict):
            await txn.commit()
        again = store.engine.begin()
        assert len(await again.get_range(b"many/", b"many0")) == 4999
        again.clear_range(b"many/", b"many0")
        await again.commit()
        assert await dump(store.engine) == {}

    store.run(body())


def test_limits_are_explained(store) -> None:
    limits = store.engine.limits

    async def body() -> None:
        txn = store.engine.begin()
        for key in (b"", b"\xff", b"\xff/x", b"k" * (limits.key_bytes_max + 1)):
            with pytest.raises(KvLimitError, match="key"):
                txn.set(key, b"")
        with pytest.raises(KvLimitError, match=str(limits.value_bytes_max)):
            txn.set(b"k", bytes(limits.value_bytes_max + 1))
        txn.set(b"k" * limits.key_bytes_max, b"v")
        txn.set(b"v", bytes(limits.value_bytes_max))
        await txn.commit()
        assert len((await dump(store.engine))[b"v"]) == limits.value_bytes_max
        large = store.engine.begin()
        for number in range(limits.transaction_bytes_max // limits.value_bytes_max + 1):
            large.set(b"large/%d" % number, bytes(limits.value_bytes_max))
        with pytest.raises(KvLimitError, match="split"):
            await large.commit()
        assert await dump(store.engine, b"large/", b"large0") == {}

    store.run(body())


def test_a_finished_transaction_is_not_used_again(store) -> None:
    async def body() -> None:
        txn = store.engine.begin()
        txn.set(b"a", b"1")
        await txn.commit()
        txn.cancel()
        with pytest.raises(InternalError):
            txn.set(b"a", b"2")
        dropped = store.engine.begin()
        dropped.set(b"a", b"3")
        dropped.cancel()
        with pytest.raises(InternalError):
            await dropped.commit()
        assert await dump(store.engine) == {b"a": b"1"}

    store.run(body())


def test_version_stamps_grow(store) -> None:
    async def body() -> None:
        txn = store.engine.begin()
        if not store.engine.versionstamps:
            with pytest.raises(Unsupported):
                txn.set_versionstamped(b"log/", b"0")
            return
        txn.set_versionstamped(b"log/", b"0")
        txn.set_versionstamped(b"log/", b"1")
        await txn.commit()
        txn = store.engine.begin()
        txn.set_versionstamped(b"log/", b"2")
        await txn.commit()
        pairs = await dump(store.engine)
        assert list(pairs.values()) == [b"0", b"1", b"2"]
        assert {len(key) for key in pairs} == {len(b"log/") + 12}

    store.run(body())


def test_a_body_that_fails_leaves_nothing(store) -> None:
    async def bad(txn: Transaction) -> None:
        txn.set(b"a", b"1")
        raise ZeroDivisionError

    async def body() -> None:
        with pytest.raises(ZeroDivisionError):
            await store.engine.transact(bad)
        assert await dump(store.engine) == {}

    store.run(body())


def test_concurrent_transfers_are_serialisable(store) -> None:
    """Money moves between accounts, each transfer takes the next number: no lost update, no torn read."""
    accounts = [b"account/%d" % i for i in range(5)]
    transfers = 60

    async def transfer(txn: Transaction, source: bytes, target: bytes) -> None:
        pairs = dict(await txn.get_range(b"account/", b"account0"))
        assert sum(int(value) for value in pairs.values()) == 500
        balance = {key: int(value) for key, value in pairs.items()}
        amount = min(7, balance[source])
        balance[source] -= amount
        balance[target] += amount
        for key in (source, target):
            txn.set(key, b"%d" % balance[key])
        last = await txn.get_range(b"log/", b"log0", limit=1, reverse=True)
        number = int(last[0][0][4:]) + 1 if last else 0
        txn.set(b"log/%06d" % number, source + b">" + target)

    async def work(worker: int) -> None:
        for i in range(transfers // 4):
            source, target = accounts[(worker + i) % 5], accounts[(worker + 2 * i + 1) % 5]
            await store.engine.transact(lambda t, s=source, d=target: transfer(t, s, d), timeout_s=30)

    async def body() -> None:
        await put(store.engine, dict.fromkeys(accounts, b"100"))
        await asyncio.gather(*(work(worker) for worker in range(4)))
        pairs = await dump(store.engine)
        log = [key for key in pairs if key.startswith(b"log/")]
        assert log == [b"log/%06d" % number for number in range(transfers)]

    store.run(body())
