"""The life of a target: every phase under every public state, and episodes that a daemon sleeps through."""

from __future__ import annotations

import itertools

import pytest

from threefs.common.ids import ChainVersion
from threefs.common.routing import LocalState, PublicState
from threefs.storage.state import Life, Phase, fail, follow, settled, synced

pytestmark = pytest.mark.unit

V5, V6 = ChainVersion(5), ChainVersion(6)
SERVING, LASTSRV, SYNCING, WAITING, OFFLINE = PublicState

# phase before -> phase after, under a new chain version, for SERVING, LASTSRV, SYNCING, WAITING, OFFLINE, no chain
TABLE = {
    Phase.RETREAT: ("RETREAT", "ONLINE", "RETREAT", "RETREAT", "ONLINE", "ONLINE"),
    Phase.ONLINE: ("SETTLING", "ONLINE", "ONLINE", "ONLINE", "ONLINE", "ONLINE"),
    Phase.SETTLING: ("SETTLING", "ONLINE", "ONLINE", "ONLINE", "ONLINE", "ONLINE"),
    Phase.UPTODATE: ("UPTODATE", "ONLINE", "ONLINE", "RETREAT", "ONLINE", "ONLINE"),
    Phase.DOWN: ("DOWN",) * 6,
}


@pytest.mark.parametrize("phase", Phase)
def test_the_table(phase: Phase) -> None:
    found = [follow(Life(phase, V5), public, V6) for public in (*PublicState, None)]
    assert tuple(life.phase.name for life in found) == TABLE[phase]
    assert all(life.chain_version == V6 for life in found), "each decision names the version it was made by"


def test_what_mgmtd_is_told() -> None:
    told = {phase: Life(phase).local for phase in Phase}
    assert told == {
        Phase.RETREAT: LocalState.OFFLINE,
        Phase.ONLINE: LocalState.ONLINE,
        Phase.SETTLING: LocalState.ONLINE,
        Phase.UPTODATE: LocalState.UPTODATE,
        Phase.DOWN: LocalState.OFFLINE,
    }


def test_a_filled_target_stays_so_under_the_version_it_was_filled_at() -> None:
    life = synced(Life(Phase.ONLINE, V5), SYNCING, V5)
    assert life.phase is Phase.UPTODATE
    assert follow(life, SYNCING, V5) == life
    assert follow(life, SERVING, V6).phase is Phase.UPTODATE


def test_a_hidden_episode_voids_the_sync() -> None:
    """Under a new version it may have been taken out and put back in between: the sync starts again."""
    life = synced(Life(Phase.ONLINE, V5), SYNCING, V5)
    assert follow(life, SYNCING, V6).phase is Phase.ONLINE


@pytest.mark.parametrize("public", [SERVING, WAITING, OFFLINE, None])
def test_only_a_syncing_target_can_be_filled(public: PublicState | None) -> None:
    assert synced(Life(Phase.ONLINE, V5), public, V5).phase is Phase.ONLINE


def test_an_old_sync_or_settlement_does_not_count() -> None:
    assert synced(Life(Phase.ONLINE, V6), SYNCING, V5).phase is Phase.ONLINE
    assert settled(Life(Phase.SETTLING, V6), V5).phase is Phase.SETTLING
    assert settled(Life(Phase.SETTLING, V6), V6).phase is Phase.UPTODATE
    assert settled(Life(Phase.ONLINE, V6), V6).phase is Phase.ONLINE


def test_what_is_down_stays_down_and_keeps_the_first_reason() -> None:
    life = fail(fail(Life(Phase.UPTODATE, V5), "first"), "second")
    assert (life.phase, life.problem) == (Phase.DOWN, "first")
    for public, version in itertools.product((*PublicState, None), (V5, V6)):
        assert follow(life, public, version).phase is Phase.DOWN
    assert synced(life, SYNCING, V5).phase is Phase.DOWN


def test_a_restarted_daemon_serves_only_by_settling_or_being_filled() -> None:
    """From the start no sequence of maps alone makes a target up to date."""
    reached = {Life()}
    for _ in range(4):
        reached |= {
            follow(life, public, version)
            for life, public, version in itertools.product(reached, (*PublicState, None), (V5, V6))
        }
    assert {life.phase for life in reached} == {Phase.RETREAT, Phase.ONLINE, Phase.SETTLING}
