"""statfs."""

from __future__ import annotations

import pytest
from tests.meta.harness import CONFIG, Room

from threefs.client.meta.types import FsSpace
from threefs.common.errors import Timeout
from threefs.meta.space import Space

pytestmark = pytest.mark.unit


def test_storage_is_asked_now_and_then(room: Room) -> None:
    async def body() -> None:
        expected = FsSpace(1 << 40, 1 << 39)
        for _ in range(5):
            assert await room.client.statfs() == expected
        assert room.storage.calls == ["space"]
        await room.tick(CONFIG.tuning.statfs_cache_s + 1)
        room.storage.failing = True
        assert await room.client.statfs() == expected  # the last answer stands
        assert room.storage.calls == ["space"] * 2

    room.run(body)


def test_no_answer_yet(room: Room) -> None:
    async def body() -> None:
        room.storage.failing = True
        with pytest.raises(Timeout):
            await Space(room.env).get()
        room.storage.failing = False

    room.run(body)
