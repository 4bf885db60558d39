"""Safeguards that can be switched off, to show that the simulation finds what they prevent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from threefs.client.routing.heartbeat import HeartbeatAgent
from threefs.storage import reading, replication, service

# name -> (owner, attribute, what stands in for it)
ABLATIONS = {
    "chain-version": [
        (module, "check_version", lambda place, version: None) for module in (reading, replication, service)
    ],
    "dirty-read": [(reading, "_pending_error", lambda item, where, result: None)],
    "self-fencing": [(HeartbeatAgent, "is_fenced", lambda self: False)],
}


@contextmanager
def ablated(name: str) -> Iterator[None]:
    """Runs the body without the safeguard; with all of them if `name` is empty."""
    with ExitStack() as stack:
        for owner, attribute, replacement in ABLATIONS[name] if name else []:
            stack.enter_context(patch.object(owner, attribute, replacement))
        yield
