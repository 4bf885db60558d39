"""Safeguards that can be switched off, to show that the simulation finds what they prevent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

ABLATIONS: dict[str, Callable[[], object]] = {}


@contextmanager
def ablated(name: str) -> Iterator[None]:
    """Runs the body without the safeguard; with all of them if `name` is empty."""
    if not name:
        yield
        return
    with ABLATIONS[name]():  # type: ignore[attr-defined]
        yield
