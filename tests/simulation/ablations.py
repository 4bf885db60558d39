"""Safeguards that can be switched off, to show that the simulation finds what they prevent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from threefs.client.routing.heartbeat import HeartbeatAgent
from threefs.common.ids import ChainVersion, NodeId
from threefs.common.routing import Routing
from threefs.mgmtd import state
from threefs.mgmtd.state import Report
from threefs.storage import forwarding, reading, replication, service

_judge_reports = state._with_reports


def _believe_old_reports(routing: Routing, node: NodeId, reports: Sequence[Report]) -> Routing:
    """As if what is reported under an old version of a chain were meant for the newest."""
    newest = ChainVersion(2**63)
    return _judge_reports(routing, node, [replace(report, chain_version=newest) for report in reports])


# name -> (owner, attribute, what stands in for it)
ABLATIONS: dict[str, list[tuple[Any, str, Any]]] = {
    "chain-version": [
        *[(module, "check_version", lambda place, version: None) for module in (reading, replication, service)],
        (forwarding, "_check_episode", lambda op: None),
        (state, "_with_reports", _believe_old_reports),
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
