"""The cluster's settings over a file's: hot keys at once, cold ones at the next start, wrong ones not at all."""

from __future__ import annotations

import pytest
from pydantic import Field

from threefs.common.config import Config, check_partial, local, overlay
from threefs.common.errors import UserError

pytestmark = pytest.mark.unit


class Inner(Config):
    delay_s: float = Field(1.0, gt=0, json_schema_extra={"hot": True})
    size: int = Field(4, ge=1)


class Outer(Config):
    name: str = local()
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


def test_keys_that_are_no_longer_set_return_to_the_file() -> None:
    now = overlay(BASE, "[inner]\ndelay_s = 2.0\nsize = 9", where="text", starting=True).config
    found = overlay(now, "", where="text", file=BASE)
    assert (found.config.inner.delay_s, found.config.inner.size) == (1.0, 9)
    assert (found.changed, found.waiting) == (("inner.delay_s",), ("inner.size",))


def test_local_keys_are_not_the_clusters() -> None:
    with pytest.raises(UserError, match=r"text:2: 'name' cannot be set for the whole cluster") as caught:
        check_partial("\nname = 'y'", Outer, where="text")
    assert caught.value.hint == "set it in the daemon's own file"


def test_a_part_may_lack_keys() -> None:
    check_partial("[inner]\nsize = 2", Outer, where="text")
