"""The states of one chain's targets: the pure rules by which they change. Called by `mgmtd.state` alone.

The one rule: a target serves only if it has every write that was acknowledged. `next_chain` is the table below;
the other functions are what an administrator may do to a chain.

    local \\ public | SERVING          SYNCING   WAITING   LASTSRV   OFFLINE
    ---------------+------------------------------------------------------
    UPTODATE       | SERVING          SERVING   WAITING   SERVING   WAITING
    ONLINE         | SERVING          sync      sync      SERVING   sync
    OFFLINE        | LASTSRV/OFFLINE  OFFLINE   OFFLINE   LASTSRV   OFFLINE

* sync: SYNCING if some target serves and no other one syncs (the one that syncs already goes on), else WAITING.
* A serving target that goes becomes LASTSRV if none is left serving, else OFFLINE. Of several that go in one round
  one becomes LASTSRV: the first whose daemon answers, since all of them have every acknowledged write; without a
  living one the first. The chain waits for it.
* LASTSRV becomes OFFLINE as soon as another target serves.
* Order: SERVING, LASTSRV, SYNCING, WAITING, OFFLINE, stable within a class. The version grows by one iff a state
  or the order changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from threefs.common.errors import Conflict
from threefs.common.ids import ChainVersion, TargetId
from threefs.common.routing import Chain, LocalState, PublicState

SERVING, LASTSRV, SYNCING, WAITING, OFFLINE = PublicState
_ORDER = {state: position for position, state in enumerate(PublicState)}


def next_chain(chain: Chain, local: Mapping[TargetId, LocalState], answers: Callable[[TargetId], bool]) -> Chain:
    """One round: the chain after what its targets' daemons report (`answers`: the daemon lives)."""
    now = dict(zip(chain.targets, chain.states, strict=True))
    down = {target: local[target] is LocalState.OFFLINE for target in now}
    after = dict.fromkeys(now, OFFLINE)

    for target, state in now.items():
        synced = state is SYNCING and local[target] is LocalState.UPTODATE
        if not down[target] and (state in (SERVING, LASTSRV) or synced):
            after[target] = SERVING
    served = SERVING in after.values()
    if not served and (last := _last_serving(now, answers)) is not None:
        after[last] = LASTSRV

    rising = [target for target in now if after[target] is OFFLINE and not down[target]]
    rising.sort(key=lambda target: now[target] is not SYNCING)
    for target in rising:
        may_sync = served and SYNCING not in after.values() and local[target] is LocalState.ONLINE
        after[target] = SYNCING if may_sync else WAITING
    return with_states(chain, after)


def _last_serving(now: Mapping[TargetId, PublicState], answers: Callable[[TargetId], bool]) -> TargetId | None:
    """Who has everything, when nobody serves any more: one of those that served, or the one that is it already."""
    gone = [target for target, state in now.items() if state is SERVING]
    gone = gone or [target for target, state in now.items() if state is LASTSRV]
    return next((target for target in gone if answers(target)), gone[0] if gone else None)


def with_states(chain: Chain, states: Mapping[TargetId, PublicState]) -> Chain:
    """The chain in its canonical order; a new version iff anything differs."""
    assert states.keys() == set(chain.targets), f"states of {list(states)} for a chain of {chain.targets}"
    targets = tuple(sorted(states, key=lambda target: _ORDER[states[target]]))
    ordered = tuple(states[target] for target in targets)
    if (targets, ordered) == (chain.targets, chain.states):
        return chain
    return replace(chain, version=ChainVersion(chain.version + 1), targets=targets, states=ordered)


def check(chain: Chain) -> None:
    """The invariants of every chain that mgmtd publishes."""
    assert len(chain.targets) == len(chain.states) == len(set(chain.targets)), chain
    assert list(chain.states) == sorted(chain.states, key=_ORDER.__getitem__), chain
    assert chain.states.count(SYNCING) <= 1, chain
    assert chain.states.count(LASTSRV) <= 1, chain
    assert LASTSRV not in chain.states or SERVING not in chain.states, chain
    assert SYNCING not in chain.states or SERVING in chain.states, chain
    assert SERVING in chain.states or LASTSRV in chain.states, chain


# What an administrator may do


def add_target(chain: Chain, target: TargetId) -> Chain:
    """The target joins at the end, OFFLINE; nothing changes if it is there already."""
    if target in chain.targets:
        return chain
    return replace(
        chain,
        version=ChainVersion(chain.version + 1),
        targets=(*chain.targets, target),
        states=(*chain.states, OFFLINE),
        preferred=(*chain.preferred, target),
    )


def remove_target(chain: Chain, target: TargetId) -> Chain:
    """An OFFLINE target leaves; nothing changes if it is not there."""
    state = chain.state_of(target)
    if state is None:
        return chain
    if state is not OFFLINE:
        raise Conflict(
            f"target {target} of chain {chain.id} is {state.name}: only an OFFLINE target can leave its chain; "
            "disable its node or take the target offline first"
        )
    kept = [(t, s) for t, s in zip(chain.targets, chain.states, strict=True) if t != target]
    return replace(
        chain,
        version=ChainVersion(chain.version + 1),
        targets=tuple(t for t, _ in kept),
        states=tuple(s for _, s in kept),
        preferred=tuple(t for t in chain.preferred if t != target),
    )


def rotate_last_serving(chain: Chain) -> Chain:
    """Gives up the LASTSRV target: it goes to the end, and the next one is believed to have everything."""
    if chain.states[0] is not LASTSRV:
        raise Conflict(f"chain {chain.id} has no LASTSRV target, its first is {chain.states[0].name}: nothing to do")
    if len(chain.targets) == 1:
        raise Conflict(f"chain {chain.id} has one target only: no other one can take over")
    first, following, *rest = chain.targets
    states = {following: LASTSRV} | {t: chain.states[chain.targets.index(t)] for t in rest} | {first: OFFLINE}
    return with_states(chain, states)


def set_preferred(chain: Chain, preferred: Sequence[TargetId]) -> Chain:
    """The order that `rotate_as_preferred` works towards. The chain's version stays."""
    if sorted(preferred) != sorted(chain.targets):
        raise Conflict(f"chain {chain.id} has targets {list(chain.targets)}, not {list(preferred)}: name each once")
    return replace(chain, preferred=tuple(preferred))


def next_misplaced(chain: Chain) -> TargetId | None:
    """The target whose resync brings the chain one step nearer to its preferred order; None if it is there.

    A target that goes offline comes back as the last serving one. So the longest beginning of the preferred
    order that the chain has as a subsequence may stay, and the next of the preferred order has to go.
    """
    if any(state is not SERVING for state in chain.states):
        raise Conflict(f"chain {chain.id} is {[s.name for s in chain.states]}: wait until all its targets serve")
    position = -1
    for target in chain.preferred:
        found = chain.targets.index(target)
        if found < position:
            return target
        position = found
    return None


def push_offline(chain: Chain, target: TargetId) -> Chain:
    """A serving target leaves service; another one must go on serving."""
    states = dict(zip(chain.targets, chain.states, strict=True))
    states[target] = OFFLINE
    if SERVING not in states.values():
        raise Conflict(f"target {target} is the only one that serves chain {chain.id}: it must stay")
    return with_states(chain, states)
