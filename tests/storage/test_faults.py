"""Chains in trouble: daemons that die and return, damaged chunks, failing disks, a daemon that mgmtd cannot hear."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.storage.conftest import CHAIN, CHUNK_BYTES, Cluster, chunk

from threefs.client.storage.types import ReadIO, WriteIO
from threefs.common.errors import Conflict, NotCommitted, NotServing
from threefs.common.ids import ChunkVersion
from threefs.common.net.service import invoke
from threefs.common.routing import PublicState
from threefs.native.checksum import crc32c
from threefs.proto import data_plane
from threefs.proto import storage_pb2 as pb
from threefs.proto.data_plane import ReadRequest
from threefs.proto.storage_rpc import Storage
from threefs.storage import metrics
from threefs.storage.engine import ReadOp, ReadResult, Update, UpdateKind

pytestmark = pytest.mark.unit


async def write_until_told(cluster: Cluster, number: int, stop: asyncio.Event) -> int:
    """Writes ever new content to one chunk; how many writes were acknowledged, all of them without error."""
    count = 0
    while not stop.is_set():
        count += 1
        await cluster.write(number, b"%08d" % count)
    return count


@pytest.mark.parametrize("victim", [1, 2, 3])
def test_writers_go_on_when_a_daemon_dies_and_it_is_filled_when_it_returns(cluster: Cluster, victim: int) -> None:
    async def main() -> None:
        for number in range(4, 8):
            await cluster.write(number, b"before")
        stop = asyncio.Event()
        writers = [asyncio.ensure_future(write_until_told(cluster, number, stop)) for number in range(3)]
        await asyncio.sleep(0.05)
        cluster.crash(victim)
        await cluster.gone(victim)
        await cluster.client.remove_chunks(CHAIN, chunk().inode, first=4, last=5)
        await cluster.client.truncate_chunk(CHAIN, chunk(5), length=2, chunk_bytes=CHUNK_BYTES)
        await cluster.write(8, b"while it was away")
        await asyncio.sleep(0.5)
        await cluster.start(victim)
        await asyncio.sleep(0.2)
        await cluster.client.truncate_chunk(CHAIN, chunk(6), length=9, chunk_bytes=CHUNK_BYTES, extend_only=True)
        await cluster.whole()
        stop.set()
        counts = await asyncio.gather(*writers)
        stored = await cluster.assert_equal_replicas()
        assert sorted(stored) == [0, 1, 2, 5, 6, 7, 8]
        for number, count in enumerate(counts):  # nothing acknowledged is lost or applied twice
            assert stored[number] == (count, 8, crc32c(b"%08d" % count)), (
                "nothing acknowledged is lost or applied twice"
            )
        assert await cluster.read(5) == b"be"
        assert await cluster.read(6) == b"before\0\0\0"
        assert cluster.chain.targets[-1] == cluster.target(victim)

    cluster.run(main)


def test_everything_dies_at_once_and_nothing_acknowledged_is_lost(cluster: Cluster) -> None:
    async def main() -> None:
        for number in range(20):
            await cluster.write(number, b"%d" % number)
        for n in cluster.numbers:
            cluster.crash(n)
        for n in (3, 1, 2):
            await cluster.gone(n)
            await cluster.start(n)
        await cluster.whole()
        for number in range(20):
            assert await cluster.read(number) == b"%d" % number
        assert len(await cluster.assert_equal_replicas()) == 20

    cluster.run(main)


def test_an_update_that_died_with_the_head_is_finished_by_the_next_one(cluster: Cluster) -> None:
    """The head dies after its successor has staged the update: no replica keeps it pending for ever."""

    async def main() -> None:
        await cluster.write(0, b"old")
        cluster.network.cut("storage2", "storage3")
        io = WriteIO(CHAIN, chunk(0), 0, memoryview(b"new"), CHUNK_BYTES)
        cluster.network.simulation.loop.call_later(0.5, cluster.crash, 1)
        writing = asyncio.ensure_future(cluster.client.write([io], timeout_s=2.0))
        await asyncio.sleep(1.0)
        assert (await cluster.metas(2))[0].pending == 2
        cluster.network.heal()
        await writing
        await cluster.gone(1)
        await cluster.start(1)
        await cluster.whole()
        for _ in range(100):
            found = [(await cluster.metas(n))[0] for n in cluster.numbers]
            if not any(meta.pending for meta in found):
                break
            await asyncio.sleep(0.1)
        stored = await cluster.assert_equal_replicas()
        assert stored[0] == (2, 3, crc32c(b"new"))

    cluster.run(main)


def test_a_replica_with_a_newer_version_on_its_way_does_not_guess(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"old")
        head, tail = cluster.servers[1], cluster.target(3)
        engine = cluster.disks[1].engine
        assert engine is not None
        update = Update(
            cluster.target(1), chunk(0), UpdateKind.WRITE, CHUNK_BYTES, ChunkVersion(2), cluster.chain.version,
            data=memoryview(b"new"),
        )  # fmt: skip
        await engine.stage([update])
        assert head.targets.find(101).life.phase.name == "UPTODATE"
        for target, flags, status in ((101, 0, NotCommitted.code), (101, data_plane.READ_RELAXED, 0), (tail, 0, 0)):
            ask = ReadRequest(target, CHAIN, flags, cluster.chain.version, chunk(0).pack(), 0, 10)
            address = cluster.routing.routing.target_address(target)  # type: ignore[arg-type]
            body = data_plane.pack_reads([ask])
            reply = await cluster.transport.call(address, data_plane.READ, body, timeout_s=1.0)
            data = b"".join(reply.data)
            answers, _ = data_plane.unpack_read_replies(reply.body, 1, len(data))
            (answer,) = data_plane.read_replies(answers)
            assert (answer.status, data) == (status, b"" if status else b"old")
        for _ in range(6):
            assert await cluster.read(0) == b"old", "the client goes to the tail"

    cluster.run(main)


def test_what_was_read_at_a_tail_that_died_is_not_taken_back(cluster: Cluster) -> None:
    """The tail has committed and shown an update, and dies before its predecessor, the next tail, knows."""

    async def main() -> None:
        await cluster.write(0, b"old")
        cluster.network.cut("storage3", "storage2", both=False)
        writing = asyncio.ensure_future(cluster.write(0, b"new"))
        for _ in range(1000):
            if (await cluster.metas(3))[0].committed == 2:
                break
            await asyncio.sleep(0.01)
        assert await cluster.read(0) == b"new"
        assert not writing.done()
        cluster.crash(3)
        await cluster.gone(3)
        for _ in range(20):
            assert await cluster.read(0) == b"new"
        await writing

    cluster.run(main)


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_chunk_is_read_elsewhere_and_repaired(cluster: Cluster, damaged: int) -> None:
    async def main() -> None:
        content = bytes(range(256)) * 40
        await cluster.write(0, content)
        cluster.disks[damaged].corrupt(cluster.target(damaged), chunk(0), at=4321)
        repaired = metrics.REPAIRED._value.get()
        for _ in range(3):
            assert await cluster.read(0) == content
        for _ in range(100):
            if metrics.REPAIRED._value.get() > repaired:
                break
            await asyncio.sleep(0.1)
        assert await cluster.assert_equal_replicas() == {0: (2, len(content), crc32c(content))}
        address = f"storage{damaged}:1"
        ask = pb.VerifyChunkRequest(target=cluster.target(damaged), inode=chunk().inode, number=0)
        assert (await invoke(cluster.transport, address, Storage.VERIFY_CHUNK, ask, timeout_s=1.0)).intact

    cluster.run(main)


def test_damage_that_is_reported_after_its_repair_is_not_counted_again(cluster: Cluster) -> None:
    async def main() -> None:
        content = bytes(range(256)) * 40
        await cluster.write(0, content)
        cluster.disks[2].corrupt(cluster.target(2), chunk(0), at=4321)
        engine = cluster.disks[2].engine
        assert engine is not None
        read, repaired, damaged = engine.read, metrics.REPAIRED._value.get(), metrics.DAMAGED._value.get()
        delays = [0.0, 0.5]  # of the answers on that daemon: the second comes long after the repair

        async def read_and_wait(ops: Sequence[ReadOp]) -> list[ReadResult]:
            results = await read(ops)
            await asyncio.sleep(delays.pop(0) if delays else 0)
            return results

        engine.read = read_and_wait  # type: ignore[method-assign]
        assert await asyncio.gather(*[cluster.read(0) for _ in range(6)]) == [content] * 6
        await asyncio.sleep(1)
        assert not delays
        assert (metrics.REPAIRED._value.get(), metrics.DAMAGED._value.get()) == (repaired + 1, damaged + 1)

    cluster.run(main)


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_write_into_a_damaged_chunk_repairs_it(cluster: Cluster, damaged: int) -> None:
    async def main() -> None:
        await cluster.write(0, b"a" * 10000)
        cluster.disks[damaged].corrupt(cluster.target(damaged), chunk(0), at=9000)
        await cluster.write(0, b"b" * 100, offset=50)
        expected = b"a" * 50 + b"b" * 100 + b"a" * 9850
        stored = await cluster.assert_equal_replicas()
        assert stored[0][1:] == (10000, crc32c(expected))
        assert await cluster.read(0) == expected

    cluster.run(main)


def test_damage_on_every_replica_is_an_error(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"x" * 5000)
        for n in cluster.numbers:
            cluster.disks[n].corrupt(cluster.target(n), chunk(0))
        io = ReadIO(CHAIN, chunk(0), 0, memoryview(bytearray(5000)))
        await cluster.client.read([io])
        assert io.error is not None
        assert "CRC32C" in str(io.error)

    cluster.run(main)


def test_a_failed_disk_leaves_the_chain_and_is_not_used_again(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"old")
        cluster.disks[2].failed = True
        await cluster.write(0, b"new")
        await cluster.gone(2)
        assert cluster.chain.state_of(cluster.target(2)) is PublicState.OFFLINE
        for _ in range(4):
            assert await cluster.read(0) == b"new"
        space = await invoke(cluster.transport, "storage2:1", Storage.SPACE_INFO, pb.SpaceInfoRequest(), timeout_s=1.0)
        assert space.disks[0].failed
        assert "failed" in space.disks[0].problem

    cluster.run(main)


def test_the_disk_check_finds_a_disk_that_nobody_uses(cluster: Cluster) -> None:
    async def main() -> None:
        cluster.disks[3].failed = True
        await cluster.gone(3)
        assert len(cluster.chain.serving()) == 2

    cluster.run(main)


def test_a_daemon_that_mgmtd_does_not_hear_answers_nobody(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"old")
        before = cluster.chain
        cluster.network.cut("storage3", "mgmtd")
        await asyncio.sleep(1.7)  # half of the failure timeout, and a heartbeat; virtual seconds
        assert cluster.chain == before, "mgmtd has not given it up yet"
        ask = ReadRequest(cluster.target(3), CHAIN, 0, before.version, chunk(0).pack(), 0, 10)
        with pytest.raises(NotServing, match="mgmtd"):
            await cluster.transport.call("storage3:1", data_plane.READ, data_plane.pack_reads([ask]), timeout_s=1.0)
        assert await cluster.read(0) == b"old", "the others answer"
        await cluster.write(0, b"new")
        cluster.network.heal()
        await cluster.whole()
        await cluster.assert_equal_replicas()

    cluster.run(main)


def test_a_target_begins_anew_only_when_its_chain_does_not_count_on_it(cluster: Cluster) -> None:
    async def main() -> None:
        async def create(n: int) -> None:
            request = pb.CreateTargetRequest(target=cluster.target(n), disk_index=0)
            await invoke(cluster.transport, f"storage{n}:1", Storage.CREATE_TARGET, request, timeout_s=9.0)

        async def lose(n: int, state: PublicState) -> None:
            targets = cluster.servers[n].targets
            cluster.network.cut(f"storage{n}", "mgmtd", both=True)
            await targets.remove(targets.find(cluster.target(n)))
            with pytest.raises(Conflict, match="still counts as serving"):
                await create(n)
            cluster.network.mend(f"storage{n}", "mgmtd", both=True)
            await cluster.until(lambda r: r.chains[CHAIN].state_of(cluster.target(n)) is state)

        await cluster.write(0, b"all have it")
        await lose(3, PublicState.OFFLINE)
        await create(3)
        await cluster.whole()
        await cluster.assert_equal_replicas()
        for n in (2, 3):
            await cluster.servers[n].stop()
            await cluster.gone(n)
        await lose(1, PublicState.LASTSRV)
        with pytest.raises(Conflict, match="rotate-lastsrv 1"):
            await create(1)

    cluster.run(main)


def test_a_clean_stop_is_known_at_once(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.servers[2].stop()
        await cluster.until(lambda r: r.chains[CHAIN].state_of(cluster.target(2)) is PublicState.OFFLINE, 0.5)
        await cluster.write(0, b"two are enough")
        cluster.runtimes["storage2"].crash()
        await cluster.start(2)
        await cluster.whole()
        await cluster.assert_equal_replicas()

    cluster.run(main)


def test_an_operator_takes_targets_off_and_away(cluster: Cluster) -> None:
    async def main() -> None:

        async def ask(n: int, force: bool = False) -> None:
            request = pb.OfflineTargetRequest(target=cluster.target(n), force=force)
            await invoke(cluster.transport, f"storage{n}:1", Storage.OFFLINE_TARGET, request, timeout_s=1.0)

        await ask(3)
        await cluster.gone(3)
        await ask(2)
        await cluster.gone(2)
        with pytest.raises(Conflict, match="force"):
            await ask(1)
        remove = pb.RemoveTargetRequest(target=cluster.target(3))
        with pytest.raises(Conflict, match="belongs to chain"):
            await invoke(cluster.transport, "storage3:1", Storage.REMOVE_TARGET, remove, timeout_s=1.0)
        spare = pb.CreateTargetRequest(target=999, disk_index=0)
        await invoke(cluster.transport, "storage3:1", Storage.CREATE_TARGET, spare, timeout_s=1.0)
        await invoke(cluster.transport, "storage3:1", Storage.CREATE_TARGET, spare, timeout_s=1.0)
        everything = pb.ListTargetsRequest()
        listed = await invoke(cluster.transport, "storage3:1", Storage.LIST_TARGETS, everything, timeout_s=1.0)
        assert sorted(target.target for target in listed.targets) == [103, 999]
        gone = pb.RemoveTargetRequest(target=999)
        await invoke(cluster.transport, "storage3:1", Storage.REMOVE_TARGET, gone, timeout_s=1.0)

    cluster.run(main)
