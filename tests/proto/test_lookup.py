"""The bodies of lookups."""

from __future__ import annotations

import pytest

from threefs.proto import lookup
from threefs.proto.lookup import Ask, Attributes, Malformed

pytestmark = pytest.mark.unit


def test_what_is_packed_comes_out() -> None:
    ask = Ask((1 << 63) + 5, 7, 1 << 31, b"n" * 255)
    assert lookup.unpack_ask(lookup.pack_ask(ask)) == ask
    found = Attributes(1 << 63, 2, 3, 4, -5, 6, 7, 0o100644, 1, 8, 9)
    assert lookup.unpack_answer(lookup.pack_answer(lookup.FOUND, found)) == (lookup.FOUND, found)
    status, nothing = lookup.unpack_answer(lookup.pack_answer(lookup.NO_SUCH_NAME))
    assert status == lookup.NO_SUCH_NAME
    assert not any(nothing)


@pytest.mark.parametrize(
    "body",
    [b"", b"x" * 23, lookup.pack_ask(Ask(1, 0, 0, b"")), lookup.pack_ask(Ask(1, 0, 0, b"n" * 256)),
     lookup.pack_ask(Ask(1, 0, 0, b"name"))[:-1], lookup.pack_ask(Ask(1, 0, 0, b"name")) + b"x"],
)  # fmt: skip
def test_a_malformed_request_is_named(body: bytes) -> None:
    with pytest.raises(Malformed, match="lookup"):
        lookup.unpack_ask(body)


def test_an_answer_of_another_size_is_malformed() -> None:
    with pytest.raises(Malformed, match="79"):
        lookup.unpack_answer(lookup.pack_answer(lookup.FOUND)[:-1])
