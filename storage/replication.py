"""The write path: updates from a client or a predecessor, staged, forwarded to the tail, committed on the way back.

Each replica does the same with a batch: check the chain version, recognise retries, lock the chunks, stage the new
state on stable storage, forward, compare checksums, commit once the successor has, answer. The head alone gives
versions. The one rule: a replica commits only what everybody behind it has committed, and what was staged is never
dropped as long as somebody behind might have it: whoever is head finishes it later (`roll_forward`).

Forwarding starts only after the local state is stable: were the tail to commit first, a power loss of all
replicas could bring back a head that never had what readers at the tail had seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from threefs.client.storage.channels import NOBODY, ChannelPool, Ticket
from threefs.common.errors import Busy, ChecksumMismatch, NotServing, ThreefsError
from threefs.common.ids import ChainId, ChainVersion, ChunkId, ChunkVersion, ClientId
from threefs.common.runtime.interface import Runtime
from threefs.native.checksum import crc32c
from threefs.storage import metrics
from threefs.storage.channels import ChunkChanged
from threefs.storage.engine import ChunkMeta, MissingUpdate, Outcome, StaleUpdate, UpdateKind
from threefs.storage.fetch import Fetcher
from threefs.storage.forwarding import Forwarder
from threefs.storage.locks import ChunkLocks
from threefs.storage.replica import Place, check_update, check_version, check_write
from threefs.storage.targets import LocalTarget, TargetSet
from threefs.storage.update import Op, ask_engine, open_by_disk, open_by_target, rounds

_log = logging.getLogger(__name__)


class Replicator:
    """Carries out updates on this daemon's targets."""

    def __init__(
        self,
        runtime: Runtime,
        targets: TargetSet,
        forwarder: Forwarder,
        fetcher: Fetcher,
        *,
        is_fenced: Callable[[], bool],
    ) -> None:
        self.locks = ChunkLocks()
        self.tickets = ChannelPool(ClientId(runtime.uuid()))  # for updates that this daemon starts itself
        self._targets = targets
        self._forwarder = forwarder
        self._fetcher = fetcher
        self._is_fenced = is_fenced

    # --- a batch -----------------------------------------------------------------------------------------------

    async def carry_out(self, ops: Sequence[Op], *, from_client: bool) -> None:
        """Ends each op with outcome or error. Several ops on one chunk are carried out in their order."""
        joined: list[Op] = []
        mine: list[Op] = []
        for op in ops:
            try:
                self._check(op, from_client=from_client)
                is_mine = _admit(op)
            except ThreefsError as exc:
                op.error = exc
                continue
            (mine if is_mine else joined).append(op)
        try:
            for batch in rounds(mine):
                await self._carry_out_round(batch, from_client=from_client)
        finally:
            for op in mine:
                _settle(op)
        for op in joined:
            await self._join(op)

    def _check(self, op: Op, *, from_client: bool) -> Place:
        """The place of the op's target; raises why it may not take the op now."""
        if self._is_fenced():
            raise NotServing("this daemon cannot reach mgmtd: it takes no updates")
        place = self._targets.place(op.target, op.chain)
        op.episode = op.target.episode
        check_version(place, op.seen_version)
        if from_client:
            check_write(place, op.target.life.phase)
        else:
            check_update(place, op.target.life.phase, op.sender)
        return place

    async def _join(self, op: Op) -> None:
        """A retry while the first attempt runs, or after it has ended: the answer is the first one's."""
        metrics.RETRIES_RECOGNISED.inc()
        assert op.record is not None
        if op.record.done is not None:
            await op.record.done
        op.outcome = op.record.outcome
        if op.outcome is None:
            op.error = Busy(f"an earlier attempt on chunk {op.chunk} ended without success; try again")

    async def _carry_out_round(self, ops: Sequence[Op], *, from_client: bool) -> None:
        async with self.locks.hold(op.key for op in ops):
            for op in ops:  # the chain may have changed while this op waited for its turn
                try:
                    self._check(op, from_client=from_client)
                except ThreefsError as exc:
                    op.error = exc
            if from_client:
                await self._number(ops)
            else:
                await self._fit_to_filling(ops)
            await self._stage(ops, from_client=from_client)
            await self._forwarder.forward(ops)
            await self._commit(ops)

    # --- versions ----------------------------------------------------------------------------------------------

    async def _number(self, ops: Sequence[Op]) -> None:
        """The head's part: each op gets the version after the committed one. What is pending is finished first."""
        for target, group in open_by_target(ops):
            query = target.engine.query(target.id, [op.chunk for op in group])
            metas = await ask_engine(self._targets, group, query)
            for op, meta in zip(group, metas, strict=False):
                try:
                    await self._number_one(op, meta)
                except ThreefsError as exc:
                    op.error = exc

    async def _number_one(self, op: Op, meta: ChunkMeta | None) -> None:
        if meta is not None and meta.pending:
            meta = await self.roll_forward(op.target, op.chain, meta)
        if op.record is not None and op.record.outcome is not None:  # it was this very update that was pending
            op.outcome = op.record.outcome
            return
        if op.expected is not None and op.expected != (meta.ticket if meta else NOBODY):
            raise ChunkChanged(f"chunk {op.chunk} was changed since the request to change it was decided")
        length = meta.length if meta else 0
        if (
            (op.kind is UpdateKind.REMOVE and meta is None)
            or (op.kind is UpdateKind.EXTEND and op.bytes <= length)
            or (op.kind is UpdateKind.TRUNCATE and op.bytes == length)
        ):
            op.outcome = _outcome_of(meta)
            return
        op.version = ChunkVersion(meta.committed + 1 if meta else 1)
        if op.kind is UpdateKind.REMOVE and meta is not None:
            op.chunk_bytes = meta.chunk_bytes

    async def _fit_to_filling(self, ops: Sequence[Op]) -> None:
        """A removal on a target that is being filled removes whatever that has."""
        for op in ops:
            if op.is_open and op.syncs and op.kind is UpdateKind.REMOVE:
                query = op.target.engine.query(op.target.id, [op.chunk])
                for meta in await ask_engine(self._targets, [op], query):
                    op.version = ChunkVersion(meta.committed + 1) if meta else op.version

    # --- staging and committing --------------------------------------------------------------------------------

    async def _stage(self, ops: Sequence[Op], *, from_client: bool) -> None:
        """Puts the new states on stable storage here."""
        for disk, group in open_by_disk(ops):
            updates = [op.to_update() for op in group]
            results = await ask_engine(self._targets, group, disk.engine.stage(updates))
            for op, result in zip(group, results, strict=False):
                if result.error is None:
                    _note_staged(op, result.length, result.crc32c)
                elif not from_client:
                    await self._judge_refusal(op, result.error)
                elif isinstance(result.error, ChecksumMismatch):
                    await self._stage_repaired(op, result.error)
                else:
                    op.error = result.error

    async def _judge_refusal(self, op: Op, error: ThreefsError) -> None:
        """An update that a successor's engine refuses may be one that it has already."""
        op.error = error
        if not isinstance(error, StaleUpdate | MissingUpdate):
            return
        for meta in await ask_engine(self._targets, [op], op.target.engine.query(op.target.id, [op.chunk])):
            if meta is None and op.kind is UpdateKind.REMOVE:
                op.error, op.outcome = None, Outcome(op.version, ChainVersion(op.seen_version), 0, 0)
            elif meta is not None and meta.committed == op.version:
                op.error, op.outcome = None, _outcome_of(meta)

    async def _stage_repaired(self, op: Op, error: ThreefsError) -> None:
        """The head's own base is damaged (unless it is the data that is): the chain rewrites it, then once more."""
        op.error = error
        if op.kind is UpdateKind.WRITE and crc32c(op.data) != op.data_crc:
            return
        try:
            op.version = ChunkVersion(await self.rewrite(op.target, op.chain, op.chunk) + 1)
        except ThreefsError as exc:
            op.error = exc
            return
        op.error = None
        for result in await ask_engine(self._targets, [op], op.target.engine.stage([op.to_update()])):
            op.error = result.error
            if op.error is None:
                _note_staged(op, result.length, result.crc32c)

    async def _commit(self, ops: Sequence[Op]) -> None:
        for disk, group in open_by_disk(ops):
            commits = disk.engine.commit([op.to_commit() for op in group])
            for op, error in zip(group, await ask_engine(self._targets, group, commits), strict=False):
                if error is not None:
                    op.error = error
                    continue
                op.finish()
                assert op.outcome is not None
                op.target.channels.absorb(op.made_by, op.outcome)
                op.target.channels.resolved(op.chunk)

    # --- what the head starts itself; the caller holds the chunk's lock ------------------------------------------

    async def roll_forward(self, target: LocalTarget, chain: ChainId, meta: ChunkMeta) -> ChunkMeta | None:
        """Finishes the pending state of a chunk; its new meta, None if it is gone then."""
        metrics.ROLLED_FORWARD.inc()
        kind = UpdateKind.REMOVE if meta.pending_remove else UpdateKind.REPLACE
        op = self.own_op(target, chain, meta, kind, meta.pending_ticket)
        op.version, op.length, op.crc, op.whole = meta.pending, meta.pending_length, meta.pending_crc32c, True
        await self._finish_own(op)
        (found,) = await target.engine.query(target.id, [meta.chunk])
        target.channels.resolved(meta.chunk)
        return found

    async def rewrite(self, target: LocalTarget, chain: ChainId, chunk: ChunkId) -> int:
        """Gives the content of a healthy replica to the whole chain as a new version, which it returns."""
        (meta,) = await target.engine.query(target.id, [chunk])
        if meta is not None and meta.pending:
            meta = await self.roll_forward(target, chain, meta)
        if meta is None:
            return 0
        content = await self._fetcher.fetch(target, chain, meta)
        op = self.own_op(target, chain, meta, UpdateKind.REPLACE, meta.ticket)
        op.version = ChunkVersion(meta.committed + 1)
        op.data, op.bytes, op.data_crc, op.whole = content, len(content), crc32c(content), True
        await self._stage([op], from_client=False)
        await self._finish_own(op)
        metrics.REPAIRED.inc()
        _log.warning("chunk %s of chain %d was damaged and is rewritten as version %d", chunk, chain, op.version)
        return op.version

    async def _finish_own(self, op: Op) -> None:
        try:
            await self._forwarder.forward([op])
            await self._commit([op])
        finally:
            self.tickets.give_back(op.ticket)
            _settle(op)
        if op.error is not None:
            raise op.error

    def own_op(
        self, target: LocalTarget, chain: ChainId, meta: ChunkMeta, kind: UpdateKind, maker: Ticket = NOBODY
    ) -> Op:
        """An update that this daemon starts under a ticket of its own, to be given back: versions begin again after a
        removal, so that a duplicate, late in the network, would pass for an update of the next chunk."""
        place = self._targets.place(target, chain)
        op = Op(target, chain, meta.chunk, kind, self.tickets.take(), meta.chunk_bytes, own=True, maker=maker)
        op.seen_version = place.version
        return op

    async def resolve(self, target: LocalTarget, place: Place, chunks: Iterable[ChunkId]) -> None:
        """Finishes what its senders gave up; called now and then on heads."""
        for chunk in chunks:
            async with self.locks.hold([(target.id, chunk)]):
                (meta,) = await target.engine.query(target.id, [chunk])
                if meta is not None and meta.pending:
                    await self.roll_forward(target, place.chain.id, meta)
                target.channels.resolved(chunk)


def _note_staged(op: Op, length: int, crc: int) -> None:
    op.staged, op.length, op.crc = True, length, crc
    if op.record is not None:
        op.record.version = op.version


def _admit(op: Op) -> bool:
    """Whether the op is to be carried out here and now; Superseded if its sender has given it up."""
    op.record, is_mine = op.target.channels.admit((op.ticket.client, op.ticket.channel), op.ticket.sequence)
    op.unsure = is_mine and op.record.version > 0  # an earlier attempt was given up
    return is_mine


def _settle(op: Op) -> None:
    """What a retry of this op, or the next one on its chunk, will find."""
    channels, record = op.target.channels, op.record
    is_left = op.outcome is None and not op.is_taken_back and (op.staged or (record is not None and record.version > 0))
    if is_left:
        channels.left(op.chunk)
    if record is None:
        return
    if op.outcome is not None:
        channels.finish(record, op.outcome)
    elif is_left:
        channels.give_up(record)
    else:
        channels.forget(record)


def _outcome_of(meta: ChunkMeta | None) -> Outcome:
    """The committed state, as the answer to an update that it includes."""
    if meta is None:
        return Outcome(ChunkVersion(0), ChainVersion(0), 0, 0)
    return Outcome(meta.committed, meta.committed_chain_version, meta.length, meta.crc32c)
