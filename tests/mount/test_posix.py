"""The mount behaves as a local file system does, for two users, under random operations."""

from __future__ import annotations

import pytest
from tests.mount.memory import MemoryMount
from tests.mount.posix_machine import compare_with_local

pytestmark = pytest.mark.mount


def test_same_as_a_local_folder(mounted: MemoryMount) -> None:
    compare_with_local(mounted.path, examples=40, steps=40)


@pytest.mark.proof
def test_same_as_a_local_folder_for_long(mounted: MemoryMount) -> None:
    compare_with_local(mounted.path, examples=1000, steps=60)
