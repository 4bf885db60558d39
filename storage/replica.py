"""Where a target stands in its chain, which requests it may take, and what a resync does: decisions without awaits.

Called by the read, write and resync paths. The one rule: every request names the chain version that its sender
went by, and only an equal version here lets it pass, so that two sides never act on different chains.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from threefs.client.storage.channels import Ticket
from threefs.common.errors import NotServing, StaleRouting
from threefs.common.ids import ChainId, ChainVersion, TargetId
from threefs.common.routing import Chain, PublicState, Routing
from threefs.storage.engine import ChunkMeta
from threefs.storage.state import Phase


@dataclass(frozen=True, slots=True)
class Place:
    """One target's place in one version of its chain."""

    target: TargetId
    chain: Chain
    state: PublicState
    predecessor: TargetId | None  # of those that a write passes
    successor: TargetId | None
    successor_syncs: bool

    @property
    def version(self) -> ChainVersion:
        return self.chain.version

    @property
    def is_tail(self) -> bool:
        """Nobody commits before this target does what comes from now on (see `LocalTarget.decides`)."""
        return self.successor is None

    @property
    def feeds_syncing(self) -> bool:
        return self.successor_syncs and self.state is PublicState.SERVING


def place_of(routing: Routing, chain_id: ChainId, target: TargetId) -> Place:
    """NotServing if the map does not know the chain, or the target takes no writes in it."""
    chain = routing.chains.get(chain_id)
    state = chain.state_of(target) if chain else None
    if chain is None or state not in (PublicState.SERVING, PublicState.SYNCING):
        found = state.name if state else "no member"
        raise NotServing(f"target {target} is {found} in chain {chain_id} at routing {routing.version}")
    writing = chain.writing()
    index = writing.index(target)
    successor = writing[index + 1] if index + 1 < len(writing) else None
    return Place(
        target,
        chain,
        state,
        writing[index - 1] if index else None,
        successor,
        successor is not None and chain.state_of(successor) is PublicState.SYNCING,
    )


def check_version(place: Place, version: int) -> None:
    if place.version != version:
        raise StaleRouting(f"chain {place.chain.id} is at version {place.version} here, the request says {version}")


def check_serving(place: Place, phase: Phase) -> None:
    """The target may answer reads."""
    if place.state is not PublicState.SERVING or phase is not Phase.UPTODATE:
        raise NotServing(f"target {place.target} is {place.state.name} and {phase.name}: it serves no reads")


def check_write(place: Place, phase: Phase) -> None:
    """The target may take a client's write: it is the head, and has everything."""
    check_serving(place, phase)
    if place.predecessor is not None:
        raise NotServing(
            f"target {place.target} is not the head of chain {place.chain.id}: that is {place.predecessor}"
        )


def check_update(place: Place, phase: Phase, sender: int) -> None:
    """The target may take an update from `sender`, its predecessor."""
    ready = phase is Phase.UPTODATE or (place.state is PublicState.SYNCING and phase is Phase.ONLINE)
    if not ready:
        raise NotServing(f"target {place.target} is {phase.name}: it takes no updates yet")
    if place.predecessor != sender:
        raise StaleRouting(f"target {sender} is not the predecessor of {place.target}: that is {place.predecessor}")


class SyncAction(enum.Enum):
    SKIP = enum.auto()
    SEND = enum.auto()
    REMOVE = enum.auto()


def compare(local: ChunkMeta | None, remote: ChunkMeta | None) -> SyncAction:
    """What the predecessor does about one chunk of the target that it fills; `local` has nothing pending.

    Version, length, CRC32C and ticket decide: equal ones are equal content, whatever chain version they were
    committed under (a last-serving target commits under a newer one than its peers).
    """
    if local is None or local.committed == 0:
        return SyncAction.REMOVE if remote is not None else SyncAction.SKIP
    assert local.pending == 0, f"chunk {local.chunk} is compared while version {local.pending} is in flight"
    if remote is None or remote.pending:
        return SyncAction.SEND
    return SyncAction.SKIP if _content_of(local) == _content_of(remote) else SyncAction.SEND


def _content_of(meta: ChunkMeta) -> tuple[int, int, int, Ticket]:
    return meta.committed, meta.length, meta.crc32c, meta.ticket
