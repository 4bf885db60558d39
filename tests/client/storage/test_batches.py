"""Grouping of elements, and small reads that are copied."""

from __future__ import annotations

import pytest

from threefs.client.storage.batches import BATCH_BYTES, BATCH_ELEMENTS, merge_writes, split
from threefs.client.storage.reception import Reception
from threefs.client.storage.types import ReadIO, WriteIO
from threefs.common.errors import ChecksumMismatch, Corrupt
from threefs.common.ids import ChainId, ChunkId, InodeId
from threefs.native.checksum import crc32c, crc32c_pieces
from threefs.native.read_reply import is_plain
from threefs.proto import data_plane
from threefs.proto.data_plane import Malformed, ReadReply

pytestmark = pytest.mark.unit

CHAIN = ChainId(1)


def write(number: int, offset: int, data: bytes) -> WriteIO:
    return WriteIO(CHAIN, ChunkId(InodeId(1), number), offset, memoryview(data), 64 << 20)


def test_neighbours_merge_and_others_do_not() -> None:
    ios = [write(0, 0, b"ab"), write(1, 0, b"x"), write(0, 2, b"cd"), write(0, 3, b"!"), write(0, 4, b"ef")]
    changes = merge_writes(ios)
    assert [(c.chunk.number, c.offset, c.bytes, len(c.pieces)) for c in changes] == [
        (0, 0, 4, 2),
        (1, 0, 1, 1),
        (0, 3, 3, 2),
    ]
    assert changes[0].crc32c == crc32c(b"abcd")
    assert changes[2].crc32c == crc32c(b"!ef")


def test_a_merged_change_stays_within_a_batch() -> None:
    half = bytes(BATCH_BYTES // 2 + 1)
    assert len(merge_writes([write(0, 0, half), write(0, len(half), half)])) == 2


def test_batches_stay_within_their_limits() -> None:
    sizes = [BATCH_BYTES // 3] * 7 + [1] * (2 * BATCH_ELEMENTS) + [BATCH_BYTES * 2, 5]
    batches = split(sizes, lambda size: size)
    assert [size for batch in batches for size in batch] == sizes
    assert all(len(batch) <= BATCH_ELEMENTS for batch in batches)
    assert all(sum(batch) <= BATCH_BYTES or len(batch) == 1 for batch in batches)
    assert split([], lambda size: size) == []


def request(ios: list[ReadIO]) -> bytes:
    head = data_plane.pack_read_head(1, CHAIN, 0, 1)
    return b"".join([head + data_plane.pack_read_range(*io.chunk, io.offset, len(io.buffer)) for io in ios])


def test_requests_are_packed_alike_in_parts_and_as_a_whole() -> None:
    ios = [ReadIO(CHAIN, ChunkId(InodeId(2**63 + n), 2**32 - 1 - n), n, memoryview(bytearray(9))) for n in range(3)]
    assert request(ios) == data_plane.pack_reads([(1, CHAIN, 0, 1, io.chunk.pack(), io.offset, 9) for io in ios])


def reply(pieces: list[bytes], *, status: int = 0, wrong: int = -1) -> tuple[bytes, list[bytes]]:
    replies, messages = [], []
    for index, piece in enumerate(pieces):
        failed = status if index == 0 else 0
        messages.append(b"oh no" if failed else b"")
        size, crc = (0, 0) if failed else (len(piece), crc32c(piece) ^ (index == wrong))
        replies.append(ReadReply(failed, len(messages[-1]), size, crc, 0, 1))
    return data_plane.pack_read_replies(replies, messages), pieces[1:] if status else pieces


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("short", [0, 7])
def test_data_lands_in_the_callers_buffers(size: int, short: int) -> None:
    batch = [ReadIO(CHAIN, ChunkId(InodeId(1), n), 0, memoryview(bytearray(size))) for n in range(3)]
    pieces = [bytes([n + 1]) * (size - short * n) for n in range(3)]
    for wrong, status in ((-1, 0), (1, 0), (-1, Corrupt.code)):
        for io in batch:
            io.error, io.length = None, 0
        reception = Reception(batch, request(batch), size * len(batch), "somewhere")
        body, data = reply(pieces, status=status, wrong=wrong)
        joined, start = b"".join(data), 0
        for view in reception.scatter(body, len(joined)):
            view[:] = joined[start : start + len(view)]
            start += len(view)
        reception.finish(body)
        for index, io in enumerate(batch):
            if status and index == 0:
                assert isinstance(io.error, Corrupt)
            elif index == wrong:
                assert isinstance(io.error, ChecksumMismatch)
            else:
                assert (io.error, io.length) == (None, len(pieces[index]))
                assert bytes(io.buffer[: io.length]) == pieces[index]


def test_a_reply_that_is_longer_than_asked_for_is_refused() -> None:
    batch = [ReadIO(CHAIN, ChunkId(InodeId(1), 0), 0, memoryview(bytearray(10)))]
    body, data = reply([b"x" * 11])
    with pytest.raises(Malformed):
        Reception(batch, request(batch), 10, "somewhere").scatter(body, len(data[0]))


@pytest.mark.parametrize("sizes", [[4096] * 8, [100, 0, 5000, 1], [], [0, 0], [7]])
def test_checksums_of_pieces(sizes: list[int]) -> None:
    data = memoryview(bytes(range(256)) * 200)[: sum(sizes)]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    expected = [crc32c(data[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
    assert crc32c_pieces(data, sizes) == expected


def test_a_reply_is_plain_only_if_nothing_in_it_is_different() -> None:
    ios = [ReadIO(CHAIN, ChunkId(InodeId(1), n), 0, memoryview(bytearray(100 + n))) for n in range(3)]
    pieces = [bytes([n + 1]) * (100 + n) for n in range(3)]
    requests, (replies, _), data = request(ios), reply(pieces), bytearray(b"".join(pieces))
    version = {index for start in (0, 24, 48) for index in range(start + 16, start + 24)}  # says nothing of the data
    assert is_plain(requests, replies, 3, memoryview(data))
    for index in range(len(replies)):
        other = bytearray(replies)
        other[index] ^= 0x80
        assert is_plain(requests, bytes(other), 3, memoryview(data)) == (index in version), index
    for size in (len(data) - 1, len(data) + 1, 0):
        assert not is_plain(requests, replies, 3, memoryview(bytes(data[:size].ljust(size, b"\0"))))
    data[150] ^= 1
    assert not is_plain(requests, replies, 3, memoryview(data))
