"""Requests that arrive after their sender has given them up, and after others have written: they do no harm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
from tests.storage.conftest import CHAIN, CHUNK_BYTES, Cluster, chunk

from threefs.client.storage.client import ChainStorageClient
from threefs.common.errors import NotServing, ThreefsError, Timeout
from threefs.common.net.interface import Buffer, Reply, Scatter, Transport
from threefs.common.net.service import invoke
from threefs.proto import storage_pb2 as pb
from threefs.proto.storage_rpc import Storage

pytestmark = pytest.mark.unit


class LateTransport(Transport):
    """Keeps the calls of one method back until they are released; their sender hears nothing."""

    def __init__(self, inner: Transport, method: int) -> None:
        self._inner = inner
        self._method = method
        self._held: list[Callable[[], Awaitable[Reply]]] = []

    async def call(
        self,
        address: str,
        method: int,
        body: bytes,
        data: Sequence[Buffer] = (),
        *,
        timeout_s: float,
        scatter: Scatter | None = None,
    ) -> Reply:
        async def go(limit_s: float = 5.0) -> Reply:
            return await self._inner.call(address, method, body, data, timeout_s=limit_s, scatter=scatter)

        if method != self._method:
            return await go(timeout_s)
        self._held.append(go)
        raise Timeout("no answer: the request is held back")

    async def release(self) -> int:
        """Lets the calls through, oldest first; how many there were."""
        for go in self._held:
            await go()
        return len(self._held)

    async def close(self) -> None:
        await self._inner.close()


def late_client(cluster: Cluster, method: int) -> tuple[ChainStorageClient, LateTransport]:
    transport = LateTransport(cluster.transport, method)
    return ChainStorageClient(cluster.runtimes["client"], transport, cluster.routing, timeout_s=0.3), transport


def test_a_late_removal_leaves_what_was_written_again(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"old")
        await cluster.write(1, b"old")
        client, late = late_client(cluster, Storage.REMOVE_CHUNKS.number)
        with pytest.raises(Timeout):
            await client.remove_chunks(CHAIN, chunk().inode, first=0, last=2)
        assert await cluster.client.remove_chunks(CHAIN, chunk().inode, first=0, last=1) == 1
        await cluster.write(0, b"new")
        assert await late.release() >= 1
        assert await cluster.read(0) == b"new"
        assert sorted(await cluster.assert_equal_replicas()) == [0], "the untouched one is removed"

    cluster.run(main)


def test_a_late_cut_leaves_what_was_written_after_it(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"0123456789")
        client, late = late_client(cluster, Storage.TRUNCATE_CHUNK.number)
        with pytest.raises(ThreefsError):
            await client.truncate_chunk(CHAIN, chunk(), length=4, chunk_bytes=CHUNK_BYTES)
        await cluster.client.truncate_chunk(CHAIN, chunk(), length=4, chunk_bytes=CHUNK_BYTES)
        await cluster.write(0, b"abcdef", offset=4)
        assert await late.release() >= 1
        assert await cluster.read(0) == b"0123abcdef"

    cluster.run(main)


def test_a_cut_of_a_chunk_that_is_being_written_succeeds_in_the_end(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"0123456789")
        client, _ = late_client(cluster, 0)
        found = client._find
        meanwhile = [b"A", b"B"]

        async def find_and_be_overtaken(*arguments: int) -> Sequence[pb.SeenChunk]:
            seen = await found(*arguments)  # type: ignore[arg-type]
            if meanwhile:
                await cluster.write(0, meanwhile.pop())
            return seen

        client._find = find_and_be_overtaken  # type: ignore[method-assign,assignment]
        await client.truncate_chunk(CHAIN, chunk(), length=4, chunk_bytes=CHUNK_BYTES)
        assert await cluster.read(0) == b"A123"

    cluster.run(main)


def test_a_daemon_that_mgmtd_does_not_hear_says_nothing_about_lengths(cluster: Cluster) -> None:
    async def main() -> None:
        await cluster.write(0, b"old")
        for n in cluster.numbers:
            cluster.network.cut(f"storage{n}", "mgmtd")
        await cluster.runtimes["client"].sleep(1.7)  # half of the failure timeout, and a heartbeat
        for target, method, message in (
            (103, Storage.QUERY_LAST_CHUNK, pb.QueryLastChunkRequest(inode=chunk().inode)),
            (101, Storage.FIND_CHUNKS, pb.FindChunksRequest(inode=chunk().inode, last=9, limit=9)),
        ):
            at = pb.ChainTarget(target=target, chain=CHAIN, chain_version=cluster.chain.version)
            message.at.CopyFrom(at)
            address = cluster.routing.routing.target_address(target)  # type: ignore[arg-type]
            with pytest.raises(NotServing, match="mgmtd"):
                await invoke(cluster.transport, address, method, message, timeout_s=1.0)  # type: ignore[type-var,arg-type]

    cluster.run(main)
