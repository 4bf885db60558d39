"""The life of one local target: what the daemon reports to mgmtd, decided without awaits.

Called by `storage.targets` whenever the map changes or something happens to the target. The one rule: a target
says UPTODATE only under the chain version at which it proved to have everything, so that no episode in which the
chain went on without it can hide between two maps that this daemon happened to see.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from threefs.common.ids import ChainVersion
from threefs.common.routing import LocalState, PublicState


class Phase(enum.Enum):
    RETREAT = enum.auto()  # waits until mgmtd has taken it out of the chain's serving part
    ONLINE = enum.auto()  # ready to be synced, or to be told that it is the last
    SETTLING = enum.auto()  # it is the last that served: commits what was in flight
    UPTODATE = enum.auto()
    DOWN = enum.auto()  # disk failed, or taken offline by an administrator: until the daemon restarts


@dataclass(frozen=True, slots=True)
class Life:
    """Where a target stands."""

    phase: Phase = Phase.RETREAT
    chain_version: ChainVersion = ChainVersion(0)  # of the map by which `phase` was decided
    problem: str = ""  # why it is DOWN

    @property
    def local(self) -> LocalState:
        """What mgmtd is told."""
        if self.phase is Phase.UPTODATE:
            return LocalState.UPTODATE
        if self.phase in (Phase.ONLINE, Phase.SETTLING):
            return LocalState.ONLINE
        return LocalState.OFFLINE


_ALIVE = (PublicState.SERVING, PublicState.SYNCING, PublicState.WAITING)


def follow(life: Life, public: PublicState | None, version: ChainVersion) -> Life:
    """The map says `public` (None: the target is in no chain) at chain version `version`."""
    seen = replace(life, chain_version=version)
    match life.phase:
        case Phase.DOWN:
            return seen
        case Phase.RETREAT:
            return seen if public in _ALIVE else replace(seen, phase=Phase.ONLINE)
        case Phase.ONLINE | Phase.SETTLING:
            settle = public is PublicState.SERVING
            return replace(seen, phase=Phase.SETTLING if settle else Phase.ONLINE)
        case Phase.UPTODATE:
            if public is PublicState.SERVING:
                return seen
            if public is PublicState.SYNCING:
                return seen if version == life.chain_version else replace(seen, phase=Phase.ONLINE)
            return follow(replace(seen, phase=Phase.RETREAT), public, version)


def settled(life: Life, version: ChainVersion) -> Life:
    """Everything that was in flight is committed under `version`."""
    if life.phase is Phase.SETTLING and life.chain_version == version:
        return replace(life, phase=Phase.UPTODATE)
    return life


def synced(life: Life, public: PublicState | None, version: ChainVersion) -> Life:
    """The predecessor says that everything is here as of `version`; an older version changes nothing."""
    if life.phase is Phase.ONLINE and public is PublicState.SYNCING and life.chain_version == version:
        return replace(life, phase=Phase.UPTODATE)
    return life


def fail(life: Life, problem: str) -> Life:
    """The target is out of service until the daemon restarts; the first reason stays."""
    return life if life.phase is Phase.DOWN else replace(life, phase=Phase.DOWN, problem=problem)
