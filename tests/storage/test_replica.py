"""Places in a chain, what a target may take there, and what a resync does about a chunk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from threefs.common.errors import NotServing, StaleRouting
from threefs.common.ids import ChainId, ChainVersion, ChunkId, ChunkVersion, InodeId, RoutingVersion, TargetId
from threefs.common.routing import Chain, PublicState, Routing
from threefs.storage.engine import ChunkMeta
from threefs.storage.replica import (
    SyncAction,
    check_serving,
    check_update,
    check_version,
    check_write,
    compare,
    place_of,
)
from threefs.storage.state import Phase

pytestmark = pytest.mark.unit

SERVING, LASTSRV, SYNCING, WAITING, OFFLINE = PublicState
CHAIN = ChainId(1)


def routing(*states: PublicState, version: int = 4) -> Routing:
    targets = tuple(TargetId(101 + n) for n in range(len(states)))
    return Routing(RoutingVersion(9), "c", chains={CHAIN: Chain(CHAIN, ChainVersion(version), targets, states)})


def test_places_along_a_chain() -> None:
    known = routing(SERVING, SERVING, SYNCING, WAITING)
    head, last, filled = (place_of(known, CHAIN, TargetId(t)) for t in (101, 102, 103))
    assert (head.predecessor, head.successor, head.is_tail) == (None, 102, False)
    assert (last.predecessor, last.successor, last.is_tail) == (101, 103, False)
    assert (last.feeds_syncing, head.feeds_syncing) == (True, False)
    assert (filled.predecessor, filled.successor, filled.is_tail) == (102, None, True)


@pytest.mark.parametrize("state", [LASTSRV, WAITING, OFFLINE])
def test_other_states_have_no_place(state: PublicState) -> None:
    with pytest.raises(NotServing, match=state.name):
        place_of(routing(SERVING, state), CHAIN, TargetId(102))
    with pytest.raises(NotServing, match="no member"):
        place_of(routing(SERVING), CHAIN, TargetId(102))
    with pytest.raises(NotServing):
        place_of(routing(SERVING), ChainId(2), TargetId(101))


def test_only_an_equal_version_passes() -> None:
    place = place_of(routing(SERVING), CHAIN, TargetId(101))
    check_version(place, 4)
    for other in (0, 3, 5):
        with pytest.raises(StaleRouting):
            check_version(place, other)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.UPTODATE])
def test_a_target_that_is_not_up_to_date_serves_nobody(phase: Phase) -> None:
    place = place_of(routing(SERVING, SERVING), CHAIN, TargetId(101))
    with pytest.raises(NotServing):
        check_serving(place, phase)
    with pytest.raises(NotServing):
        check_write(place, phase)


def test_clients_write_to_the_head_alone() -> None:
    known = routing(SERVING, SERVING)
    check_write(place_of(known, CHAIN, TargetId(101)), Phase.UPTODATE)
    with pytest.raises(NotServing, match="head"):
        check_write(place_of(known, CHAIN, TargetId(102)), Phase.UPTODATE)


def test_updates_come_from_the_predecessor() -> None:
    known = routing(SERVING, SERVING, SYNCING)
    check_update(place_of(known, CHAIN, TargetId(102)), Phase.UPTODATE, 101)
    check_update(place_of(known, CHAIN, TargetId(103)), Phase.ONLINE, 102)
    with pytest.raises(StaleRouting):
        check_update(place_of(known, CHAIN, TargetId(103)), Phase.ONLINE, 101)
    with pytest.raises(NotServing):
        check_update(place_of(known, CHAIN, TargetId(102)), Phase.ONLINE, 101)
    with pytest.raises(NotServing):
        check_update(place_of(known, CHAIN, TargetId(103)), Phase.RETREAT, 102)


META = ChunkMeta(ChunkId(InodeId(1), 0), ChunkVersion(3), ChainVersion(2), 10, 0xABC)


@pytest.mark.parametrize(
    ("local", "remote", "action"),
    [
        (None, None, SyncAction.SKIP),
        (None, META, SyncAction.REMOVE),
        (META, None, SyncAction.SEND),
        (META, META, SyncAction.SKIP),
        (META, replace(META, committed_chain_version=ChainVersion(9)), SyncAction.SKIP),
        (META, replace(META, committed=ChunkVersion(2)), SyncAction.SEND),
        (META, replace(META, committed=ChunkVersion(4)), SyncAction.SEND),
        (META, replace(META, crc32c=1), SyncAction.SEND),
        (META, replace(META, length=11), SyncAction.SEND),
        (META, replace(META, pending=ChunkVersion(4)), SyncAction.SEND),
        (replace(META, committed=ChunkVersion(0)), META, SyncAction.REMOVE),
    ],
)
def test_what_a_resync_does(local: ChunkMeta | None, remote: ChunkMeta | None, action: SyncAction) -> None:
    assert compare(local, remote) is action


def test_a_chunk_in_flight_is_not_compared() -> None:
    with pytest.raises(AssertionError, match="in flight"):
        compare(replace(META, pending=ChunkVersion(4)), META)
