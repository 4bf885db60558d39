"""Fixtures of the metadata tests."""

from __future__ import annotations

import pytest
from tests.meta.harness import Room


@pytest.fixture
def room() -> Room:
    """One daemon on an empty store."""
    return Room()
