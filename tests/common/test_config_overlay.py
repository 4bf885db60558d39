"""The cluster's settings over a file's: hot keys at once, cold ones at the next start, wrong ones not at all."""

from __future__ import annotations

import pytest
from pydantic import Field

from threefs.common.config import Config, check_partial, overlay
from threefs.common.errors import UserError

pytestmark = pytest.mark.unit


class Inner(Config):
    delay_s: float = Field(1.0, gt=0, json_schema_extra={"hot": True})
    size: int = Field(4, ge=1)


class Outer(Config):
    name: str
    inner: Inner = Inner()


BASE = Outer(name="x")


def test_hot_keys_change_and_cold_ones_wait() -> None:
    found = overlay(BASE, "[inner]\ndelay_s = 2.0\nsize = 9", where="text")
    assert found.config == Outer(name="x", inner=Inner(delay_s=2.0))
    assert (found.changed, found.waiting) == (("inner.delay_s",), ("inner.size",))


def test_at_the_start_everything_changes() -> None:
    found = overlay(BASE, "[inner]\nsize = 9", where="text", starting=True)
    assert (found.config.inner.size, found.waiting) == (9, ())


def test_equal_values_are_no_change() -> None:
    assert overlay(BASE, "[inner]\nsize = 4", where="text").waiting == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[inner]\ndelay = 2.0", r"text:2: unknown key 'inner.delay'"),
        ("[inner]\ndelay_s = -1.0", r"text:2: inner.delay_s = -1.0"),
        ("[inner]\ndelay_s = 'a'", r"text:2: inner.delay_s = 'a'"),
        ("inner =", "no valid TOML"),
    ],
)
def test_wrong_keys_and_values_are_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        overlay(BASE, text, where="text")
    with pytest.raises(UserError, match=words):
        check_partial(text, Outer, where="text")


def test_a_part_may_lack_keys() -> None:
    check_partial("[inner]\nsize = 2", Outer, where="text")
