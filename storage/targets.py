"""The disks and targets of one daemon, and how each target follows the map.

Owned by the server; the read, write and resync paths look targets up here. The one rule: a target's life changes
only through `storage.state`, and each change reaches mgmtd at once (`on_change` pokes the heartbeat).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from threefs.client.routing import TargetStatus
from threefs.client.storage.channels import RETRY_S_MAX, Ticket
from threefs.common.errors import NotServing, ThreefsError
from threefs.common.ids import ChainId, ChainVersion, ChunkId, ClientId, InodeId, TargetId
from threefs.common.routing import PublicState, Routing
from threefs.common.runtime.interface import Runtime
from threefs.storage import metrics, state
from threefs.storage.channels import Channels, Key
from threefs.storage.config import StorageConfig
from threefs.storage.engine import ChunkEngine, ChunkMeta, Commit, DiskFailed, Outcome, SpaceInfo
from threefs.storage.replica import Place, place_of
from threefs.storage.state import Life, Phase

_log = logging.getLogger(__name__)

FIRST_CHUNK = ChunkId(InodeId(0), 0)
PAST_LAST_CHUNK = ChunkId(InodeId(2**64 - 1), 2**32 - 1)
PAGE = 1000


class RoutingView(Protocol):
    """What the daemon needs of `client.routing.RoutingClient`."""

    routing: Routing

    async def refresh(self, *, timeout_s: float = 5.0) -> Routing: ...


@dataclass(slots=True)
class Disk:
    index: int
    engine: ChunkEngine
    problem: str = ""  # why it is out of service
    space: SpaceInfo | None = None


@dataclass(slots=True, eq=False)
class LocalTarget:
    id: TargetId
    disk: Disk
    life: Life = field(default_factory=Life)
    episode: int = 0  # grows when what it has may have fallen behind the chain; an update of an older one ends
    channels: Channels = field(default_factory=Channels)
    place: Place | None = None  # of the chain that was asked for last

    @property
    def engine(self) -> ChunkEngine:
        return self.disk.engine

    def decides(self, place: Place) -> bool:
        """What is pending here is committed nowhere, so that the committed state is the newest one. That is so at the
        tail, but for what it passed on before the chain lost the former tail: readers may have seen it there."""
        return place.is_tail and not self.channels.in_doubt


def after(chunk: ChunkId) -> ChunkId:
    """The id that follows; where the next page of a list begins."""
    if chunk.number < 2**32 - 1:
        return ChunkId(chunk.inode, chunk.number + 1)
    return ChunkId(InodeId(chunk.inode + 1), 0)


class TargetSet:
    """All targets of this daemon."""

    def __init__(
        self,
        runtime: Runtime,
        routing: RoutingView,
        disks: Sequence[Disk],
        *,
        on_change: Callable[[], None],
        config: Callable[[], StorageConfig],
    ) -> None:
        self.disks = tuple(disks)
        self._runtime = runtime
        self._routing = routing
        self._on_change = on_change
        self._config = config
        self._targets: dict[TargetId, LocalTarget] = {}
        self._places_of: Routing | None = None
        self._places: dict[tuple[TargetId, int], Place] = {}
        for disk in disks:
            for target in disk.engine.targets():
                self._targets[target] = LocalTarget(target, disk, channels=self._open_channels(target, disk))

    def _open_channels(self, target: TargetId, disk: Disk) -> Channels:
        """What the engine remembers of finished updates, without those that nobody repeats any more."""

        def forget(key: Key) -> None:
            try:
                disk.engine.forget(target, [Ticket(ClientId(key[0]), key[1], 0)])
            except DiskFailed as exc:
                self.fail_disk(disk, exc)

        oldest_us = self._runtime.wall_us() - round(RETRY_S_MAX * 1e6)
        finished = disk.engine.finished(target)
        disk.engine.forget(target, [item.ticket for item in finished if item.finished_us < oldest_us])
        return Channels([item for item in finished if item.finished_us >= oldest_us], forget=forget)

    def __iter__(self) -> Iterator[LocalTarget]:
        return iter(list(self._targets.values()))

    def find(self, target: int) -> LocalTarget:
        """NotServing if it is not here: the caller's map is older or newer than the disks."""
        found = self._targets.get(TargetId(target))
        if found is None:
            raise NotServing(f"target {target} is not on this daemon")
        return found

    def place(self, target: LocalTarget, chain: int) -> Place:
        """By the newest map, which the target's life has taken into account then."""
        known = self._routing.routing.chains.get(ChainId(chain))
        if known is not None and known.version != target.life.chain_version:
            self.follow()
        place = target.place
        if place is None or place.chain is not self._routing.routing.chains.get(ChainId(chain)):
            place = target.place = place_of(self._routing.routing, ChainId(chain), target.id)
        return place

    def places(self) -> Iterator[tuple[LocalTarget, Place]]:
        """Targets that take writes now, with their places."""
        routing = self._routing.routing
        for target in self:
            known = routing.targets.get(target.id)
            if known is None or known.chain not in routing.chains:
                continue
            if routing.chains[known.chain].state_of(target.id) in (PublicState.SERVING, PublicState.SYNCING):
                yield target, place_of(routing, known.chain, target.id)

    # --- life --------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Takes the newest map into account; called whenever it changes."""
        for target in self:
            public, version = self._public(target)
            self._move(target, state.follow(target.life, public, version))

    def synced(self, target: LocalTarget, version: ChainVersion) -> None:
        """The predecessor has filled it; NotServing if that was under another chain version."""
        public, _ = self._public(target)
        self._move(target, state.synced(target.life, public, version))
        if target.life.phase is not Phase.UPTODATE or target.life.chain_version != version:
            raise NotServing(f"target {target.id} is {target.life.phase.name}: a sync under {version} does not count")

    def fail_target(self, target: LocalTarget, problem: str) -> None:
        self._move(target, state.fail(target.life, problem))

    def fail_disk(self, disk: Disk, error: Exception) -> None:
        """Takes all targets of a disk out of service until the daemon restarts."""
        if not disk.problem:
            disk.problem = str(error) or type(error).__name__
            metrics.DISKS_FAILED.inc()
            _log.error("disk %d is out of service: %s; replace it or restart the daemon", disk.index, disk.problem)
        for target in self:
            if target.disk is disk:
                self.fail_target(target, disk.problem)

    def retire(self) -> None:
        """A clean stop: nothing serves any more."""
        for target in self:
            self.fail_target(target, "the daemon stops")

    def _public(self, target: LocalTarget) -> tuple[PublicState | None, ChainVersion]:
        routing = self._routing.routing
        known = routing.targets.get(target.id)
        chain = routing.chains.get(known.chain) if known else None
        if chain is None:
            return None, ChainVersion(0)
        return chain.state_of(target.id), chain.version

    def _move(self, target: LocalTarget, life: Life) -> None:
        before, target.life = target.life, life
        if life == before:
            return
        moved = before.phase is Phase.UPTODATE or life.chain_version != before.chain_version
        target.episode += life.phase is not Phase.UPTODATE and moved
        if life.phase is not before.phase:
            _log.info("target %d: %s -> %s (chain version %d)", target.id, before.phase.name, life.phase.name,
                      life.chain_version)  # fmt: skip
            if before.phase is Phase.UPTODATE:
                target.channels.disown()
        if life.phase is Phase.SETTLING and (before.phase, before.chain_version) != (life.phase, life.chain_version):
            self._runtime.spawn(self._settle(target, life.chain_version), name=f"settle {target.id}")
        self._on_change()

    async def _settle(self, target: LocalTarget, version: ChainVersion) -> None:
        """Commits what was in flight when the last serving target went down: it may have been acknowledged."""
        try:
            async for page in self.pages(target):
                pending = [meta for meta in page if meta.pending]
                commits = [Commit(target.id, meta.chunk, meta.pending, version) for meta in pending]
                for error in await target.engine.commit(commits):
                    if error is not None:
                        raise error
                for meta in pending:
                    done = Outcome(meta.pending, version, meta.pending_length, meta.pending_crc32c)
                    target.channels.absorb(meta.pending_ticket, done)
        except ThreefsError as exc:
            self.fail_disk(target.disk, exc)
            return
        self._move(target, state.settled(target.life, version))

    async def pages(self, target: LocalTarget, begin: ChunkId = FIRST_CHUNK) -> AsyncIterator[Sequence[ChunkMeta]]:
        """All chunks of a target from `begin`, a page at a time."""
        while True:
            page = await target.engine.list(target.id, begin, PAST_LAST_CHUNK, limit=PAGE)
            yield page
            if len(page) < PAGE:
                return
            begin = after(page[-1].chunk)

    # --- targets -----------------------------------------------------------------------------------------------

    async def create(self, target: TargetId, disk_index: int) -> None:
        """Idempotent; NotServing if there is no such disk or it failed."""
        if target in self._targets:
            return
        disk = next((disk for disk in self.disks if disk.index == disk_index), None)
        if disk is None or disk.problem:
            raise NotServing(f"disk {disk_index} is not in service here: {disk.problem if disk else 'not configured'}")
        await disk.engine.create_target(target)
        self._targets.setdefault(target, LocalTarget(target, disk, channels=self._open_channels(target, disk)))
        self.follow()
        self._on_change()

    async def remove(self, target: LocalTarget) -> None:
        self._targets.pop(target.id, None)
        await target.engine.drop_target(target.id)
        self._on_change()

    def statuses(self) -> list[TargetStatus]:
        """What the heartbeat says."""
        return [self._status(target) for target in self]

    def _status(self, target: LocalTarget) -> TargetStatus:
        space = target.disk.space
        sharing = sum(other.disk is target.disk for other in self)
        low = space is not None and space.free_bytes * 1000 < space.capacity_bytes * self._config().low_space_permille
        return TargetStatus(
            target.id,
            target.life.local,
            target.life.chain_version,
            target.disk.index,
            space.used_bytes // sharing if space else 0,
            low,
        )
