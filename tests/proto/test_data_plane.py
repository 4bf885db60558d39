"""The descriptors survive the trip, and what is damaged is refused with Malformed, never with anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefs.proto import data_plane
from threefs.proto.data_plane import Malformed, ReadReply, ReadRequest, UpdateReply, UpdateRequest

pytestmark = pytest.mark.unit

CHUNK = b"inode..." + b"\0\0\0\0" + b"numb"


def update(**changes: object) -> UpdateRequest:
    whole = UpdateRequest(1, 2, 3, data_plane.KIND_WRITE, 0, 0, 4, CHUNK, 5, 10, 20, 1 << 20, 6, b"c" * 16, 7, 8)
    return whole._replace(**changes)  # type: ignore[arg-type]


reads = st.builds(
    ReadRequest,
    target=st.integers(0, 2**64 - 1),
    chain=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([0, data_plane.READ_RELAXED]),
    chain_version=st.integers(0, 2**64 - 1),
    chunk=st.just(CHUNK),
    offset=st.integers(0, 1 << 20),
    bytes=st.integers(0, 1 << 16),
)


@given(st.lists(reads, min_size=1, max_size=20))
def test_reads_survive(items: list[ReadRequest]) -> None:
    assert data_plane.read_requests(data_plane.unpack_reads(data_plane.pack_reads(items))) == items


def test_updates_survive() -> None:
    items = [update(), update(kind=data_plane.KIND_TRUNCATE, bytes=99), update(kind=data_plane.KIND_REMOVE, bytes=0)]
    assert data_plane.unpack_updates(data_plane.pack_updates(items), 20) == items
    assert [item.data_bytes for item in items] == [20, 0, 0]


def test_replies_survive() -> None:
    replies = [ReadReply(0, 0, 100, 1, 0, 2), ReadReply(400, 5, 0, 0, 0, 0)]
    body = data_plane.pack_read_replies(replies, [b"", b"oh no"])
    found, messages = data_plane.unpack_read_replies(body, 2, 100)
    assert (data_plane.read_replies(found), messages) == (replies, ["", "oh no"])
    updates = [UpdateReply(300, 3, 0, 0, 0, 0, 0), UpdateReply(0, 0, 1, 2, 0, 3, 4)]
    body = data_plane.pack_update_replies(updates, [b"bad", b""])
    assert data_plane.unpack_update_replies(body, 2) == (updates, ["bad", ""])


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": 0},
        {"kind": 6},
        {"flags": 4},
        {"reserved": 1},
        {"reserved_end": 1},
        {"reserved_maker": 1},
        {"chunk_bytes": (64 << 20) + 1},
        {"offset": 1 << 20},
        {"chunk": b"\1" * 16},
    ],
)
def test_updates_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        data_plane.unpack_updates(data_plane.pack_updates([update(**wrong)]), 20)


@pytest.mark.parametrize("data_bytes", [0, 19, 21])
def test_data_has_to_be_what_the_descriptors_announce(data_bytes: int) -> None:
    with pytest.raises(Malformed):
        data_plane.unpack_updates(data_plane.pack_updates([update()]), data_bytes)
    with pytest.raises(Malformed):
        data_plane.unpack_read_replies(data_plane.pack_read_replies([ReadReply(0, 0, 20, 0, 0, 0)], []), 1, data_bytes)


def test_batches_have_limits() -> None:
    item = ReadRequest(1, 1, 0, 1, CHUNK, 0, 4096)
    for items in ([], [item] * (data_plane.BATCH_MAX + 1), [item._replace(bytes=1 << 20)] * 65):
        with pytest.raises(Malformed):
            data_plane.unpack_reads(data_plane.pack_reads(items))


@given(st.data())
def test_a_truncated_body_is_refused(data: st.DataObject) -> None:
    body = data_plane.pack_updates([update(), update()])
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(Malformed):
        data_plane.unpack_updates(body[:cut], 40)
    replies = data_plane.pack_update_replies([UpdateReply(300, 3, 0, 0, 0, 0, 0)] * 2, [b"bad"] * 2)
    with pytest.raises(Malformed):
        data_plane.unpack_update_replies(replies[: data.draw(st.integers(0, len(replies) - 1))], 2)


@given(st.binary(max_size=400), st.integers(0, 1 << 20))
def test_any_bytes_give_a_batch_within_limits_or_malformed(body: bytes, data_bytes: int) -> None:
    for unpack in (
        lambda: data_plane.unpack_reads(body),
        lambda: data_plane.unpack_updates(body, data_bytes),
        lambda: data_plane.unpack_read_replies(body, 2, data_bytes),
        lambda: data_plane.unpack_update_replies(body, 2),
    ):
        try:
            unpack()
        except Malformed:
            continue


@given(st.data())
def test_a_flipped_bit_is_refused_or_stays_within_limits(data: st.DataObject) -> None:
    body = bytearray(data_plane.pack_updates([update()]))
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    body[bit // 8] ^= 1 << (bit % 8)
    try:
        (item,) = data_plane.unpack_updates(bytes(body), 20)
    except Malformed:
        return
    assert item.offset + item.bytes <= item.chunk_bytes <= data_plane.CHUNK_BYTES_MAX
    assert data_plane.KIND_WRITE <= item.kind <= data_plane.KIND_REMOVE
