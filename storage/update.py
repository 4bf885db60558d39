"""One update on its way through this replica, and what it looks like on the wire. Used by the write path alone."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from threefs.client.storage.channels import NOBODY, Ticket
from threefs.common.errors import NotServing, ThreefsError
from threefs.common.ids import ChainId, ChainVersion, ChunkId, ChunkVersion, ClientId
from threefs.proto.data_plane import UPDATE_OWN, UPDATE_SYNC, UpdateReply, UpdateRequest, clip_message
from threefs.storage.channels import Record
from threefs.storage.engine import Commit, DiskFailed, Outcome, ReadOp, Update, UpdateKind
from threefs.storage.locks import Key
from threefs.storage.replica import Place
from threefs.storage.targets import Disk, LocalTarget, TargetSet

T = TypeVar("T")
_EMPTY = memoryview(b"")


@dataclass(slots=True, eq=False)
class Op:
    """One update. It ends with an `outcome` or an `error`, never both."""

    target: LocalTarget
    chain: ChainId
    chunk: ChunkId
    kind: UpdateKind
    ticket: Ticket
    chunk_bytes: int
    offset: int = 0
    bytes: int = 0  # of the data; the wanted length for TRUNCATE and EXTEND
    data: memoryview = _EMPTY
    data_crc: int = 0
    own: bool = False  # started by a daemon, which holds the chunk at the head, under a ticket of its own
    syncs: bool = False  # this replica is being filled: the update replaces whatever it has
    sender: int = 0
    seen_version: int = 0  # chain version that the sender went by, and that was found equal here
    episode: int = field(init=False)  # of the target when the update was admitted
    record: Record | None = None
    version: ChunkVersion = ChunkVersion(0)  # of the chunk's new state; the head gives it
    length: int = 0  # of the chunk's new state
    crc: int = 0
    tail_version: ChainVersion = ChainVersion(0)  # chain version under which the tail committed; 0: not yet
    whole: bool = False  # the successor cannot build on what it has: send the whole content
    staged: bool = False  # by this attempt
    unsure: bool = False  # an attempt to forward ended without a clear answer: the update may live on behind us
    maker: Ticket = NOBODY  # of an own one: who made the state that is finished or copied
    expected: Ticket | None = None  # carried out only on content that this update made (NOBODY: on no chunk)
    outcome: Outcome | None = None
    error: ThreefsError | None = None

    def __post_init__(self) -> None:
        self.episode = self.target.episode

    @property
    def key(self) -> Key:
        return self.target.id, self.chunk

    @property
    def is_open(self) -> bool:
        return self.outcome is None and self.error is None

    @property
    def made_by(self) -> Ticket:
        """Whose update the new state is; it stays with the state."""
        return self.maker if self.own else self.ticket

    def to_update(self) -> Update:
        """For the engine here."""
        resized = self.kind in (UpdateKind.TRUNCATE, UpdateKind.EXTEND)
        return Update(
            self.target.id,
            self.chunk,
            self.kind,
            self.chunk_bytes,
            self.version,
            ChainVersion(self.seen_version),
            self.offset,
            self.bytes if resized else 0,
            self.data,
            None if resized or self.kind is UpdateKind.REMOVE else self.data_crc,
            self.made_by,
        )

    def to_commit(self) -> Commit:
        return Commit(self.target.id, self.chunk, self.version, self.tail_version)

    def read_pending(self, buffer: memoryview) -> ReadOp:
        return ReadOp(self.target.id, self.chunk, 0, buffer, pending=True)

    def sends_whole(self, place: Place) -> bool:
        """The successor gets the chunk's whole new content instead of the change."""
        return (self.whole or place.successor_syncs) and self.kind is not UpdateKind.REMOVE

    def to_request(self, place: Place, whole: memoryview | None) -> UpdateRequest:
        """For the successor; `whole` is the chunk's new content if that is what goes."""
        assert place.successor is not None, f"target {place.target} is the tail"
        kind, offset, size, crc = self.kind, self.offset, self.bytes, self.data_crc
        if whole is not None:
            kind, offset, size, crc = UpdateKind.REPLACE, 0, self.length, self.crc
        return UpdateRequest(
            place.successor,
            self.target.id,
            self.chain,
            kind,
            (UPDATE_SYNC if place.successor_syncs else 0) | (UPDATE_OWN if self.own else 0),
            0,
            place.version,
            self.chunk.pack(),
            self.version,
            offset,
            size,
            self.chunk_bytes,
            crc,
            self.ticket.client,
            self.ticket.sequence,
            self.ticket.channel,
            0,
            self.maker.client,
            self.maker.sequence,
            self.maker.channel,
        )

    def finish(self) -> None:
        """The new state is committed here and behind."""
        self.outcome = Outcome(self.version, self.tail_version, self.length, self.crc)

    @property
    def is_taken_back(self) -> bool:
        """Refused behind us, for good and at the first attempt: nobody behind has it, so nobody needs it."""
        return self.staged and self.error is not None and not self.unsure and not self.tail_version


def op_from_request(request: UpdateRequest, target: LocalTarget, data: memoryview) -> Op:
    """An update as it arrived."""
    return Op(
        target,
        ChainId(request.chain),
        ChunkId.unpack(request.chunk),
        UpdateKind(request.kind),
        Ticket(ClientId(request.client), request.channel, request.sequence),
        request.chunk_bytes,
        request.offset,
        request.bytes,
        data,
        request.crc32c,
        bool(request.flags & UPDATE_OWN),
        bool(request.flags & UPDATE_SYNC),
        request.sender,
        request.chain_version,
        version=ChunkVersion(request.version),
        maker=Ticket(ClientId(request.maker), request.maker_channel, request.maker_sequence),
    )


def to_reply(op: Op) -> tuple[UpdateReply, bytes]:
    """What the sender of an update is told: a descriptor, and a message if it failed."""
    if op.outcome is not None:
        done = op.outcome
        return UpdateReply(0, 0, done.length, done.crc32c, 0, done.version, done.chain_version), b""
    assert op.error is not None, f"update of chunk {op.chunk} ended without outcome or error"
    message = clip_message(str(op.error))
    return UpdateReply(op.error.code, len(message), 0, 0, 0, 0, 0), message


def open_by_disk(ops: Iterable[Op]) -> list[tuple[Disk, list[Op]]]:
    """Ops that have not ended yet."""
    groups: dict[int, tuple[Disk, list[Op]]] = {}
    for op in ops:
        if op.is_open:
            groups.setdefault(op.target.disk.index, (op.target.disk, []))[1].append(op)
    return list(groups.values())


def open_by_target(ops: Iterable[Op]) -> list[tuple[LocalTarget, list[Op]]]:
    groups: dict[int, tuple[LocalTarget, list[Op]]] = {}
    for op in ops:
        if op.is_open:
            groups.setdefault(op.target.id, (op.target, []))[1].append(op)
    return list(groups.values())


def rounds(ops: Iterable[Op]) -> list[list[Op]]:
    """Batches without two ops on one chunk, which keep the order of those that are."""
    found: list[list[Op]] = []
    count: dict[Key, int] = {}
    for op in ops:
        index = count.get(op.key, 0)
        count[op.key] = index + 1
        if index == len(found):
            found.append([])
        found[index].append(op)
    return found


async def ask_engine(targets: TargetSet, ops: Iterable[Op], answer: Awaitable[list[T]]) -> list[T]:
    """What the engine answers; if its disk failed nothing, and the ops end with NotServing."""
    try:
        return await answer
    except DiskFailed as exc:
        ops = list(ops)
        targets.fail_disk(ops[0].target.disk, exc)
        for op in ops:
            op.unsure = op.unsure or op.staged
            op.error = NotServing(f"disk {op.target.disk.index} of target {op.target.id} failed: {exc}")
        return []
