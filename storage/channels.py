"""Recognises retries: the newest update on every (client, channel) of one target, and what became of it.

Called by the write path on every replica of a chain, so that a new head knows what the old one had done. The one
rule: an update is carried out at most once for one sequence number, and never after a later one on its channel.

A sender has one update under way on a channel and numbers them upwards, so the newest one of each channel is all that
can come again, whatever others wrote to the chunk, or removed, in between. What is finished is remembered by the
engine, in one piece with the commit; what is not is a pending state, which carries its ticket. So neither a restart of
all replicas nor a chunk that is gone makes a retry look new. A target that is filled takes over its predecessor's
records before it serves (`export`, `absorb`). Tried instead: a last ticket, or a few, in each chunk's record; any
number of other clients' updates may come between an update and its retry, and a removed chunk has no record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from threefs.client.storage.channels import Ticket
from threefs.common.errors import Conflict
from threefs.common.ids import ChunkId, ChunkVersion, ClientId
from threefs.storage.engine import Finished, Outcome

RECORDS_MAX = 65536  # of one target; the least recently used go first

Key = tuple[bytes, int]  # client, channel


@dataclass(slots=True)
class Record:
    """The newest update on a channel. Running while `done` is set; finished once `outcome` is."""

    key: Key
    sequence: int
    version: ChunkVersion = ChunkVersion(0)  # at which it was staged; 0: nowhere yet
    outcome: Outcome | None = None
    done: asyncio.Future[None] | None = None


class Superseded(Conflict):
    """A later update on the same channel came first: whoever sent this one has given it up."""

    code = 313


class ChunkChanged(Conflict):
    """Somebody changed the chunk since the sender looked at it: it looks again, or leaves the chunk alone."""

    code = 314


class Channels:
    """The records of one target."""

    def __init__(self, finished: Iterable[Finished] = (), *, forget: Callable[[Key], None] = lambda key: None) -> None:
        """`finished`: what the engine remembers, the oldest first; `forget` tells it what need not be any longer."""
        self._forget = forget
        self._records: dict[Key, Record] = {}
        self._unresolved: dict[ChunkId, None] = {}  # with a pending state that nobody works on
        self._passed_on: dict[ChunkId, None] = {}  # with a pending state that a successor may have committed
        for item in finished:
            self.absorb(item.ticket, item.outcome)

    def admit(self, key: Key, sequence: int) -> tuple[Record, bool]:
        """The record of an update and whether the caller is to carry it out; if not, it waits for `done` if that is
        set, else takes `outcome`. Superseded if a later one was seen."""
        record = self._records.pop(key, None)
        if record is None or sequence > record.sequence:
            record = Record(key, sequence)
            self._drop_oldest()
        self._records[key] = record  # now the most recently used
        if sequence < record.sequence:
            raise Superseded(f"channel {key[1]} is at sequence {record.sequence}, the update is {sequence}")
        if record.outcome is not None or record.done is not None:
            return record, False
        record.done = asyncio.get_running_loop().create_future()
        return record, True

    def finish(self, record: Record, outcome: Outcome) -> None:
        """Committed here and on everything behind."""
        record.outcome = outcome
        self._wake(record)

    def forget(self, record: Record) -> None:
        """Refused without any trace: a retry is a new attempt, while earlier updates on the channel stay refused."""
        record.version = ChunkVersion(0)
        self._wake(record)

    def give_up(self, record: Record) -> None:
        """Perhaps carried out on some replicas: a retry goes on where this attempt stopped."""
        self._wake(record)

    def absorb(self, ticket: Ticket, outcome: Outcome) -> None:
        """An update is finished, whoever did it; ignored if a later one was seen on its channel."""
        key = (ticket.client, ticket.channel)
        known = self._records.get(key)
        if known is not None and known.sequence == ticket.sequence:
            known.outcome = known.outcome or outcome
        elif ticket.sequence and (known is None or known.sequence < ticket.sequence):
            self._records[key] = Record(key, ticket.sequence, outcome=outcome)
            self._drop_oldest()

    def export(self) -> Iterator[tuple[Ticket, Outcome]]:
        """Finished updates, least recently used first."""
        for record in list(self._records.values()):
            if record.outcome is not None:
                yield Ticket(ClientId(record.key[0]), record.key[1], record.sequence), record.outcome

    # --- chunks that were left pending -------------------------------------------------------------------------

    def left(self, chunk: ChunkId) -> None:
        """The chunk was given up while its new state is pending."""
        self._unresolved[chunk] = None

    def unresolved(self) -> list[ChunkId]:
        return list(self._unresolved)

    def passed_on(self, chunk: ChunkId) -> None:
        """The chunk's pending state goes to a successor, which may commit it and show it to readers."""
        self._passed_on[chunk] = None

    @property
    def in_doubt(self) -> bool:
        """Some pending state may be committed elsewhere, by a successor that is gone perhaps."""
        return bool(self._passed_on)

    def resolved(self, chunk: ChunkId) -> None:
        """The chunk has no pending state any more."""
        self._unresolved.pop(chunk, None)
        self._passed_on.pop(chunk, None)

    def disown(self) -> None:
        """The target left the chain: what is pending here is decided by the chain, or when the target returns."""
        self._unresolved.clear()
        self._passed_on.clear()

    def _wake(self, record: Record) -> None:
        done, record.done = record.done, None
        if done is not None and not done.done():
            done.set_result(None)

    def _drop_oldest(self) -> None:
        while len(self._records) > RECORDS_MAX:
            oldest = next(iter(self._records))
            if self._records[oldest].done is not None:
                return
            del self._records[oldest]
            self._forget(oldest)
