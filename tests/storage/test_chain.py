"""Writes and reads through a chain: replication, retries, versions, refusals."""

from __future__ import annotations

import asyncio

import pytest
from tests.storage.conftest import CHAIN, CHUNK_BYTES, Cluster, chunk

from threefs.client.storage.types import ReadIO, WriteIO
from threefs.common.errors import CODES, BadRequest, NoSpace, StaleRouting, ThreefsError
from threefs.common.ids import ChunkId, InodeId
from threefs.common.routing import PublicState
from threefs.native.checksum import crc32c
from threefs.proto import data_plane
from threefs.proto.data_plane import UpdateReply, UpdateRequest

pytestmark = pytest.mark.unit


def request(cluster: Cluster, data: bytes, *, sequence: int = 1, version: int = 0) -> UpdateRequest:
    chain = cluster.chain
    return UpdateRequest(
        chain.targets[0], 0, CHAIN, data_plane.KIND_WRITE, 0, 0, version or chain.version, chunk(0).pack(), 0, 0,
        len(data), CHUNK_BYTES, crc32c(data), b"c" * 16, sequence, 7,
    )  # fmt: skip


async def send(
    cluster: Cluster, update: UpdateRequest, data: bytes, *, timeout_s: float = 5.0
) -> data_plane.UpdateReply:
    body = data_plane.pack_updates([update])
    reply = await cluster.transport.call("storage1:1", data_plane.WRITE, body, [data], timeout_s=timeout_s)
    (answer,), _ = data_plane.unpack_update_replies(reply.body, 1)
    return answer


def test_a_write_is_on_every_replica(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"hello")
        await cluster.write(0, b"HE")
        await cluster.write(0, b"!", offset=9)
        assert await cluster.read(0) == b"HEllo\0\0\0\0!"
        assert await cluster.read(0, length=3, offset=4) == b"o\0\0"
        assert await cluster.read(1) == b""
        assert await cluster.assert_equal_replicas() == {0: (3, 10, crc32c(b"HEllo\0\0\0\0!"))}

    cluster.run(main)


def test_elements_that_touch_become_one_update_and_order_is_kept(cluster: Cluster) -> None:
    async def main() -> None:
        pieces = [WriteIO(CHAIN, chunk(0), i * 4, memoryview(b"%04d" % i), CHUNK_BYTES) for i in range(8)]
        over = WriteIO(CHAIN, chunk(0), 2, memoryview(b"xx"), CHUNK_BYTES)
        other = WriteIO(CHAIN, chunk(1), 0, memoryview(b"other"), CHUNK_BYTES)
        await cluster.client.write([*pieces, over, other])
        assert [io.error for io in (*pieces, over, other)] == [None] * 10
        assert (await cluster.read(0))[:8] == b"00xx0001"
        stored = await cluster.assert_equal_replicas()
        assert stored[0][0] == 2, "eight touching elements are one version, the overlapping one another"

    cluster.run(main)


def test_many_chunks_in_parallel(cluster: Cluster) -> None:
    async def main() -> None:
        data = [bytes([i % 251]) * 5000 for i in range(300)]
        ios = [WriteIO(CHAIN, chunk(i), 0, memoryview(data[i]), CHUNK_BYTES) for i in range(300)]
        await cluster.client.write(ios)
        assert all(io.error is None for io in ios)
        buffers = [bytearray(6000) for _ in range(300)]
        reads = [ReadIO(CHAIN, chunk(i), 0, memoryview(buffers[i])) for i in range(300)]
        await cluster.client.read(reads)
        assert [io.length for io in reads] == [5000] * 300
        assert [bytes(buffer[:5000]) for buffer in buffers] == data

    cluster.run(main)


def test_a_retry_is_recognised_on_every_replica(cluster: Cluster) -> None:
    async def main() -> None:
        update = request(cluster, b"once")
        first = await send(cluster, update, b"once")
        again = await send(cluster, update, b"once")
        assert (first.status, first) == (0, again)
        assert (await cluster.assert_equal_replicas())[0][0] == 1
        cluster.crash(1)
        await cluster.gone(1)
        answer = await send_again(cluster, update, b"once")
        assert (answer.status, answer.version) == (0, 1), "the new head knows what the old one did"

    cluster.run(main)


async def send_again(cluster: Cluster, update: UpdateRequest, data: bytes) -> UpdateReply:
    """The retry of a client that follows the chain."""
    head = cluster.chain.targets[0]
    update = update._replace(target=head, chain_version=cluster.chain.version)
    address = cluster.routing.routing.target_address(head)
    reply = await cluster.transport.call(
        address, data_plane.WRITE, data_plane.pack_updates([update]), [data], timeout_s=5.0
    )
    (answer,), _ = data_plane.unpack_update_replies(reply.body, 1)
    return answer


async def restart_everything(cluster: Cluster) -> None:
    for n in cluster.numbers:
        cluster.crash(n)
    for n in cluster.numbers:
        await cluster.gone(n)
        await cluster.start(n)
    await cluster.whole()


@pytest.mark.parametrize("between", ["nothing", "others", "removal"])
def test_a_retry_is_recognised_after_all_replicas_restarted(cluster: Cluster, between: str) -> None:
    async def main() -> None:
        update = request(cluster, b"once")
        assert (await send(cluster, update, b"once")).status == 0
        await restart_everything(cluster)
        if between == "others":
            for count in range(20):
                await cluster.write(0, b"%04d" % count)
        elif between == "removal":
            await cluster.client.remove_chunks(CHAIN, chunk().inode, first=0, last=1)
        before = await cluster.assert_equal_replicas()
        await restart_everything(cluster)
        assert (await send_again(cluster, update, b"once")).status == 0
        assert await cluster.assert_equal_replicas() == before, "it was not applied again"

    cluster.run(main)


def test_a_retry_of_what_was_in_flight_when_everything_died_is_applied_once(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"old!")
        cluster.crash(3)
        await cluster.gone(3)
        cluster.network.cut("storage1", "storage2")
        update = request(cluster, b"once")
        with pytest.raises(ThreefsError):
            await send(cluster, update, b"once", timeout_s=0.5)
        assert (await cluster.metas(1))[0].pending == 2
        cluster.crash(2)
        await asyncio.sleep(1.0)  # so that mgmtd misses the head last: it keeps the chain's state
        cluster.crash(1)
        await cluster.until(lambda routing: routing.chains[CHAIN].states[0] is PublicState.LASTSRV)
        assert cluster.chain.targets[0] == cluster.target(1)
        cluster.network.heal()
        for n in cluster.numbers:
            await cluster.start(n)
        await cluster.whole()
        await cluster.write(0, b"newer")
        assert (await send_again(cluster, update, b"once")).status == 0
        assert (await cluster.assert_equal_replicas())[0] == (3, 5, crc32c(b"newer"))

    cluster.run(main)


def test_a_filled_target_recognises_retries_after_it_restarted_alone(cluster: Cluster) -> None:
    async def main() -> None:
        cluster.crash(3)
        await cluster.gone(3)
        update = request(cluster, b"once")
        assert (await send_again(cluster, update, b"once")).status == 0
        await cluster.start(3)
        await cluster.whole()
        await cluster.write(0, b"newer")
        for n in cluster.numbers:
            cluster.crash(n)
            await cluster.gone(n)
        assert cluster.chain.states[0] is PublicState.LASTSRV
        assert cluster.chain.targets[0] == cluster.target(3)
        await cluster.start(3)
        await cluster.until(lambda routing: routing.chains[CHAIN].serving() == (cluster.target(3),))
        await cluster.until_settled(3)
        assert (await send_again(cluster, update, b"once")).status == 0
        assert await cluster.read(0) == b"newer"

    cluster.run(main)


def test_two_attempts_at_the_same_time_are_one_update(cluster: Cluster) -> None:
    async def main() -> None:
        update = request(cluster, b"twice")
        answers = await asyncio.gather(send(cluster, update, b"twice"), send(cluster, update, b"twice"))
        assert [answer.status for answer in answers] == [0, 0]
        assert (await cluster.assert_equal_replicas())[0][0] == 1

    cluster.run(main)


def test_an_update_that_was_overtaken_on_its_channel_is_refused(cluster: Cluster) -> None:
    async def main() -> None:
        assert (await send(cluster, request(cluster, b"new", sequence=5), b"new")).status == 0
        late = await send(cluster, request(cluster, b"old", sequence=4), b"old")
        assert late.status == 313
        assert await cluster.read(0) == b"new"

    cluster.run(main)


def test_another_chain_version_is_refused(cluster: Cluster) -> None:
    async def main() -> None:
        for version in (cluster.chain.version - 1 or 99, cluster.chain.version + 1):
            answer = await send(cluster, request(cluster, b"x", version=version), b"x")
            assert CODES[answer.status] is StaleRouting
        assert await cluster.read(0) == b""

    cluster.run(main)


def test_damaged_data_is_not_written(cluster: Cluster) -> None:
    async def main() -> None:
        answer = await send(cluster, request(cluster, b"right"), b"wrong")
        assert answer.status == 401
        assert await cluster.assert_equal_replicas() == {}

    cluster.run(main)


def test_lengths(cluster: Cluster) -> None:
    async def main() -> None:
        client = cluster.client
        await cluster.write(0, b"0123456789")
        await client.truncate_chunk(CHAIN, chunk(0), length=4, chunk_bytes=CHUNK_BYTES)
        assert await cluster.read(0) == b"0123"
        await client.truncate_chunk(CHAIN, chunk(0), length=2, chunk_bytes=CHUNK_BYTES, extend_only=True)
        assert await cluster.read(0) == b"0123"
        await client.truncate_chunk(CHAIN, chunk(0), length=6, chunk_bytes=CHUNK_BYTES, extend_only=True)
        assert await cluster.read(0) == b"0123\0\0"
        await client.truncate_chunk(CHAIN, chunk(3), length=0, chunk_bytes=CHUNK_BYTES)
        assert 3 not in await cluster.assert_equal_replicas()
        await client.truncate_chunk(CHAIN, chunk(3), length=8, chunk_bytes=CHUNK_BYTES)
        found = await client.query_last_chunk(CHAIN, chunk(0).inode)
        assert (found.index, found.length, found.chunk_count) == (3, 8, 2)
        with pytest.raises(BadRequest):
            await client.truncate_chunk(CHAIN, chunk(0), length=CHUNK_BYTES + 1, chunk_bytes=CHUNK_BYTES)

    cluster.run(main)


def test_removal_leaves_other_inodes_alone(cluster: Cluster) -> None:
    async def main() -> None:
        for number in range(10):
            await cluster.write(number, b"x")
        other = WriteIO(CHAIN, ChunkId(InodeId(0x1001), 0), 0, memoryview(b"y"), CHUNK_BYTES)
        await cluster.client.write([other])
        remove = cluster.client.remove_chunks
        assert await remove(CHAIN, chunk().inode, first=2, last=6, limit=3) == 3
        assert await remove(CHAIN, chunk().inode, first=2, last=6, limit=3) == 1
        assert await remove(CHAIN, chunk().inode, first=0, last=2**32) == 6
        assert (await cluster.client.query_last_chunk(CHAIN, chunk().inode)).index == -1
        assert len(await cluster.metas(3)) == 1
        await cluster.write(0, b"again")
        assert await cluster.read(0) == b"again"

    cluster.run(main)


def test_a_full_disk_behind_the_head_refuses_the_write_and_leaves_nothing(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"old")
        cluster.disks[3].capacity_bytes = 1000
        with pytest.raises(NoSpace):
            await cluster.write(0, b"n" * 5000)
        with pytest.raises(NoSpace):
            await cluster.write(1, b"n" * 5000)
        assert await cluster.read(0) == b"old"
        assert list(await cluster.assert_equal_replicas()) == [0]
        cluster.disks[3].capacity_bytes = 1 << 30
        await cluster.write(0, b"new")
        assert await cluster.read(0) == b"new"

    cluster.run(main)


def test_elements_out_of_range_fail_alone(cluster: Cluster) -> None:
    async def main() -> None:
        good = WriteIO(CHAIN, chunk(0), 0, memoryview(b"good"), CHUNK_BYTES)
        bad = WriteIO(CHAIN, chunk(1), CHUNK_BYTES - 1, memoryview(b"no"), CHUNK_BYTES)
        await cluster.client.write([good, bad])
        assert good.error is None
        assert isinstance(bad.error, BadRequest)

    cluster.run(main)


def test_space_counts_replicas_once(cluster: Cluster) -> None:
    async def main() -> None:
        for disk in cluster.disks.values():
            disk.capacity_bytes = 3_000_000
        await cluster.write(0, b"x" * 1000)
        assert await cluster.client.space() == (3_000_000, 2_999_000)

    cluster.run(main)
