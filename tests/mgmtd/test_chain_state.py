"""The chain rules, exhaustively: every chain of one to three targets that can arise, under every report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from threefs.common.errors import Conflict
from threefs.common.ids import ChainId, ChainVersion, TargetId
from threefs.common.routing import Chain, LocalState, PublicState
from threefs.mgmtd import chain_state
from threefs.mgmtd.chain_state import next_chain

pytestmark = pytest.mark.unit

SERVING, LASTSRV, SYNCING, WAITING, OFFLINE = PublicState
UPTODATE, ONLINE, DOWN = LocalState

# The facts' table, written out again: (local, public) -> next, for a chain in which another target serves / none does.
WITH_SERVING = {
    (UPTODATE, SERVING): SERVING, (UPTODATE, SYNCING): SERVING, (UPTODATE, WAITING): WAITING,
    (UPTODATE, LASTSRV): SERVING, (UPTODATE, OFFLINE): WAITING,
    (ONLINE, SERVING): SERVING, (ONLINE, SYNCING): SYNCING, (ONLINE, WAITING): SYNCING,
    (ONLINE, LASTSRV): SERVING, (ONLINE, OFFLINE): SYNCING,
    (DOWN, SERVING): OFFLINE, (DOWN, SYNCING): OFFLINE, (DOWN, WAITING): OFFLINE,
    (DOWN, LASTSRV): OFFLINE, (DOWN, OFFLINE): OFFLINE,
}  # fmt: skip
ALONE = WITH_SERVING | {
    (ONLINE, SYNCING): WAITING, (ONLINE, WAITING): WAITING, (ONLINE, OFFLINE): WAITING,
    (DOWN, SERVING): LASTSRV, (DOWN, LASTSRV): LASTSRV,
}  # fmt: skip


def fresh(count: int) -> Chain:
    targets = tuple(TargetId(n) for n in range(1, count + 1))
    return Chain(ChainId(1), ChainVersion(1), targets, (SERVING,) * count, targets)


def reports(chain: Chain) -> Iterator[tuple[dict[TargetId, LocalState], dict[TargetId, bool]]]:
    """Every combination of local states and living daemons; a dead daemon's target is OFFLINE."""
    for locals_ in itertools.product(LocalState, repeat=len(chain.targets)):
        for alive in itertools.product((True, False), repeat=len(chain.targets)):
            if all(lives or state is DOWN for lives, state in zip(alive, locals_, strict=True)):
                yield dict(zip(chain.targets, locals_, strict=True)), dict(zip(chain.targets, alive, strict=True))


def reachable(count: int) -> list[Chain]:
    """Every chain (versions apart) that rules and administrators can make of `count` fresh targets."""
    seen: dict[tuple[tuple[TargetId, ...], tuple[PublicState, ...]], Chain] = {}
    todo = [fresh(count)]
    while todo:
        chain = todo.pop()
        if (chain.targets, chain.states) in seen:
            continue
        seen[chain.targets, chain.states] = chain
        todo += [next_chain(chain, local, alive.__getitem__) for local, alive in reports(chain)]
        if LASTSRV in chain.states and count > 1:
            todo.append(chain_state.rotate_last_serving(chain))
        if chain.states.count(SERVING) > 1:
            todo.append(chain_state.push_offline(chain, chain.targets[0]))
    return list(seen.values())


CHAINS = [chain for count in (1, 2, 3) for chain in reachable(count)]
STEPS = [(chain, local, alive) for chain in CHAINS for local, alive in reports(chain)]


def test_the_search_is_not_empty() -> None:
    assert len(CHAINS) > 50
    assert len(STEPS) > 3000


def test_every_reachable_chain_keeps_the_invariants() -> None:
    for chain in CHAINS:
        chain_state.check(chain)


def test_every_single_transition_is_in_the_table() -> None:
    """One target changes, the others report what keeps them: the cell decides alone."""
    checked = set()
    for chain, local, alive in STEPS:
        after = next_chain(chain, local, alive.__getitem__)
        for target in chain.targets:
            others = [t for t in chain.targets if t != target]
            serving = any(after.state_of(t) is SERVING for t in others)
            rivals = [t for t in others if chain.state_of(t) in (SERVING, LASTSRV, SYNCING)]
            busy = any(after.state_of(t) is SYNCING for t in others)
            cell = (local[target], chain.state_of(target))
            expected = (WITH_SERVING if serving else ALONE)[cell]
            if expected is SYNCING and busy:
                expected = WAITING  # one at a time
            elif expected is LASTSRV and any(after.state_of(t) is LASTSRV for t in rivals):
                expected = OFFLINE  # one at a time
            assert after.state_of(target) is expected, (chain, local, target, after)
            checked.add((*cell, serving))
    assert len(checked) == 2 * 15 - 3  # beside a LASTSRV target nobody serves; all else is met both ways


def test_a_round_is_final() -> None:
    for chain, local, alive in STEPS:
        once = next_chain(chain, local, alive.__getitem__)
        assert next_chain(once, local, alive.__getitem__) == once


def test_the_version_grows_by_one_exactly_with_a_change() -> None:
    for chain, local, alive in STEPS:
        after = next_chain(chain, local, alive.__getitem__)
        changed = (after.targets, after.states) != (chain.targets, chain.states)
        assert after.version == chain.version + changed


def test_the_order_is_by_class_and_stable_within() -> None:
    ranks = list(PublicState)
    for chain, local, alive in STEPS:
        after = next_chain(chain, local, alive.__getitem__)
        position = [(ranks.index(after.state_of(t) or OFFLINE), chain.targets.index(t)) for t in after.targets]
        assert position == sorted(position)


def test_only_who_has_everything_serves() -> None:
    """A target begins to serve only out of SYNCING with all filled in, or as the last one that served."""
    for chain, local, alive in STEPS:
        after = next_chain(chain, local, alive.__getitem__)
        for target in after.serving():
            before = chain.state_of(target)
            assert before in (SERVING, LASTSRV) or (before is SYNCING and local[target] is UPTODATE)


def test_of_several_that_vanish_the_first_living_one_is_the_last() -> None:
    chain = fresh(3)
    down = dict.fromkeys(chain.targets, DOWN)
    assert next_chain(chain, down, lambda _: False).targets[0] == 1
    after = next_chain(chain, down, lambda target: target >= 2)
    assert after.targets == (2, 1, 3)
    assert after.states == (LASTSRV, OFFLINE, OFFLINE)


def test_recovering_targets_wait_for_one_another() -> None:
    chain = Chain(ChainId(1), ChainVersion(7), fresh(3).targets, (SERVING, OFFLINE, OFFLINE))
    local = {TargetId(1): UPTODATE, TargetId(2): ONLINE, TargetId(3): ONLINE}
    chain = next_chain(chain, local, lambda _: True)
    assert chain.states == (SERVING, SYNCING, WAITING)
    local[TargetId(2)] = UPTODATE
    chain = next_chain(chain, local, lambda _: True)
    assert (chain.targets, chain.states) == ((1, 2, 3), (SERVING, SERVING, SYNCING))
    local[TargetId(3)] = UPTODATE
    assert next_chain(chain, local, lambda _: True).states == (SERVING, SERVING, SERVING)


def test_members_come_and_go() -> None:
    chain = chain_state.add_target(fresh(2), TargetId(9))
    assert (chain.targets, chain.states, chain.version) == ((1, 2, 9), (SERVING, SERVING, OFFLINE), 2)
    assert chain_state.add_target(chain, TargetId(9)) is chain
    with pytest.raises(Conflict, match="only an OFFLINE target"):
        chain_state.remove_target(chain, TargetId(1))
    gone = chain_state.remove_target(chain, TargetId(9))
    assert (gone.targets, gone.preferred, gone.version) == ((1, 2), (1, 2), 3)
    assert chain_state.remove_target(gone, TargetId(9)) is gone


def test_giving_up_the_last_serving_target() -> None:
    chain = Chain(ChainId(1), ChainVersion(4), fresh(3).targets, (LASTSRV, WAITING, OFFLINE))
    rotated = chain_state.rotate_last_serving(chain)
    assert (rotated.targets, rotated.states, rotated.version) == ((2, 3, 1), (LASTSRV, OFFLINE, OFFLINE), 5)
    with pytest.raises(Conflict, match="no LASTSRV"):
        chain_state.rotate_last_serving(fresh(2))


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_the_preferred_order_is_reached_in_fewer_steps_than_targets(order: tuple[int, ...]) -> None:
    targets = tuple(TargetId(t) for t in order)
    chain = Chain(ChainId(1), ChainVersion(1), targets, (SERVING,) * 3, fresh(3).targets)
    steps = 0
    while (target := chain_state.next_misplaced(chain)) is not None:
        chain = chain_state.push_offline(chain, target)
        chain = chain_state.with_states(chain, dict.fromkeys(chain.targets, SERVING))
        steps += 1
    assert chain.targets == (1, 2, 3)
    assert steps <= 2


def test_the_only_serving_target_is_not_pushed() -> None:
    with pytest.raises(Conflict, match="the only one"):
        chain_state.push_offline(fresh(1), TargetId(1))
