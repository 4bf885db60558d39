"""Who may work on a chunk, and which updates were seen already."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from threefs.client.storage.channels import ChannelPool, Ticket
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, ClientId, InodeId, TargetId
from threefs.storage.channels import RECORDS_MAX, Channels, Key, Outcome, Superseded
from threefs.storage.locks import ChunkLocks

pytestmark = pytest.mark.unit

A, B = [(TargetId(1), ChunkId(InodeId(1), number)) for number in (0, 1)]
KEY = (b"client", 1)
TICKET = Ticket(ClientId(b"client"), 1, 1)
OTHER = ClientId(b"other client")
DONE = Outcome(ChunkVersion(5), ChainVersion(2), 10, 20)


def test_locks_are_taken_in_turn() -> None:
    async def main() -> None:
        locks, order = ChunkLocks(), []

        async def work(name: int) -> None:
            async with locks.hold([B, A]):
                order.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(*[work(name) for name in range(5)])
        assert order == [0, 1, 2, 3, 4]
        assert locks.held_count() == 0

    asyncio.run(main())


def test_batches_that_overlap_crosswise_do_not_block_each_other() -> None:
    async def main() -> None:
        locks = ChunkLocks()

        async def work(keys: list[tuple[TargetId, ChunkId]]) -> None:
            async with locks.hold(keys):
                await asyncio.sleep(0)

        async with asyncio.timeout(100):
            await asyncio.gather(*[work([A, B] if name % 2 else [B, A]) for name in range(20)])

    asyncio.run(main())


@pytest.mark.parametrize("steps", range(4))
def test_a_cancelled_waiter_leaves_the_queue(steps: int) -> None:
    async def main() -> None:
        locks, got = ChunkLocks(), []

        async def work(name: str) -> None:
            async with locks.hold([A, B]):
                got.append(name)

        async with locks.hold([A]):
            waiting = [asyncio.ensure_future(work(name)) for name in ("first", "second")]
            await asyncio.sleep(0)
            if steps < 2:
                waiting[0].cancel()
            for _ in range(steps):
                await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert got[-1] == "second"
        assert not locks.is_held(A)
        assert not locks.is_held(B)

    asyncio.run(main())


def test_channels_tell_new_from_old() -> None:
    async def main() -> None:
        channels = Channels()
        record, mine = channels.admit(KEY, 3)
        assert mine
        again, mine = channels.admit(KEY, 3)
        assert again is record
        assert not mine
        assert record.done is not None
        channels.finish(record, DONE)
        assert channels.admit(KEY, 3)[0].outcome == DONE
        with pytest.raises(Superseded):
            channels.admit(KEY, 2)
        newer, mine = channels.admit(KEY, 4)
        assert mine
        assert newer is not record

    asyncio.run(main())


def test_a_refused_update_may_be_tried_again_and_one_given_up_is_remembered() -> None:
    async def main() -> None:
        channels, chunk = Channels(), A[1]
        record, _ = channels.admit(KEY, 1)
        record.version = ChunkVersion(4)
        channels.forget(record)
        with pytest.raises(Superseded):
            channels.admit(KEY, 0)
        record, mine = channels.admit(KEY, 1)
        assert (mine, record.version) == (True, 0)
        record.version = ChunkVersion(5)
        channels.give_up(record)
        channels.left(chunk)
        assert channels.unresolved() == [chunk]
        channels.absorb(Ticket(OTHER, 1, 9), Outcome(ChunkVersion(5), ChainVersion(2), 1, 1))
        assert record.outcome is None, "that was somebody else's update"
        channels.absorb(TICKET, DONE)
        channels.resolved(chunk)
        assert channels.unresolved() == []
        assert channels.admit(KEY, 1) == (record, False)
        assert record.outcome == DONE

    asyncio.run(main())


def test_a_filled_target_knows_what_its_predecessor_saw() -> None:
    async def main() -> None:
        channels, other = Channels(), Channels()
        channels.finish(channels.admit(KEY, 7)[0], DONE)
        channels.admit((OTHER, 2), 8)  # still running: not exported
        for ticket, outcome in channels.export():
            other.absorb(ticket, outcome)
        assert other.admit(KEY, 7)[0].outcome == DONE
        with pytest.raises(Superseded):
            other.admit(KEY, 6)
        other.absorb(replace(TICKET, sequence=5), Outcome(ChunkVersion(1), ChainVersion(1), 0, 0))
        assert other.admit(KEY, 7)[0].outcome == DONE, "an older record does not replace a newer one"
        other.disown()
        assert other.admit(KEY, 7)[0].outcome == DONE, "what is finished stays so"

    asyncio.run(main())


def test_records_are_bounded_and_the_oldest_finished_go_first() -> None:
    async def main() -> None:
        forgotten: list[Key] = []
        channels = Channels(forget=forgotten.append)
        for channel in range(RECORDS_MAX + 10):
            record, _ = channels.admit((b"c", channel), 1)
            channels.finish(record, DONE)
        assert sum(1 for _ in channels.export()) <= RECORDS_MAX + 1
        assert channels.admit((b"c", RECORDS_MAX + 9), 1)[0].outcome == DONE
        assert channels.admit((b"c", 0), 1)[1], "forgotten"
        assert forgotten[:2] == [(b"c", 0), (b"c", 1)]

    asyncio.run(main())


def test_a_pool_reuses_channels_under_growing_numbers() -> None:
    pool = ChannelPool(ClientId(b"c" * 16))
    first, second = pool.take(), pool.take()
    assert (first.channel, second.channel) == (1, 2)
    pool.give_back(first)
    third = pool.take()
    assert third.channel == 1
    assert third.sequence > second.sequence > first.sequence
