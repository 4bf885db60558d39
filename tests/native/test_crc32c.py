"""CRC32C: the fast forms equal the reference, which equals the published values."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefs.native._core import ffi, lib
from threefs.native.buffers import buffer

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data: bytes, crc: int) -> None:
    assert lib.crc32c(0, data, len(data)) == crc
    assert lib.crc32c_reference(0, data, len(data)) == crc


@given(
    st.integers(0, 15), st.one_of(st.integers(0, 20_000), st.sampled_from([767, 768, 4079, 4080, 4096])), st.integers()
)
def test_fast_equals_reference_at_any_alignment_and_length(start: int, length: int, seed: int) -> None:
    data = buffer(start + length)
    data[:] = Random(seed).randbytes(len(data))
    piece = ffi.from_buffer(data[start:])
    crc = seed & 0xFFFFFFFF
    assert lib.crc32c(crc, piece, length) == lib.crc32c_reference(crc, piece, length)


@given(st.binary(max_size=3000), st.binary(max_size=3000), st.integers(0, 3000))
def test_combine_and_zeros_equal_the_whole(a: bytes, b: bytes, zeros: int) -> None:
    crc_a, crc_b = lib.crc32c(0, a, len(a)), lib.crc32c(0, b, len(b))
    assert lib.crc32c_combine(crc_a, crc_b, len(b)) == lib.crc32c(0, a + b, len(a + b))
    assert lib.crc32c_zeros(crc_a, zeros) == lib.crc32c(0, a + bytes(zeros), len(a) + zeros)


@given(st.lists(st.integers(0, 9000), max_size=6), st.sampled_from([4096, 8192]), st.integers())
def test_units_grow_by_pieces(pieces: list[int], unit: int, seed: int) -> None:
    data = Random(seed).randbytes(sum(pieces))
    crcs = ffi.new("uint32_t[]", len(data) // unit + 1)
    at = 0
    for length in pieces:
        piece = data[at : at + length]
        assert lib.crc32c_units(crcs, unit, at, piece, length) == lib.crc32c(0, piece, length)
        at += length
    for index, begin in enumerate(range(0, len(data), unit)):
        whole = data[begin : begin + unit]
        assert crcs[index] == lib.crc32c(0, whole, len(whole))
    assert lib.crc32c_fold(crcs, unit, len(data)) == lib.crc32c(0, data, len(data))
