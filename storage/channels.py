"""Recognises retries: the newest update on every (client, channel) of one target, and what became of it.

Called by the write path on every replica of a chain, so that a new head knows what the old one had done. The one
rule: an update is carried out at most once for one sequence number, and never after a later one on its channel.
Kept in memory; a target that is filled takes over its predecessor's records (`export`, `absorb`), one that
leaves the chain forgets them (`clear`), because chain versions fence what was sent before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from threefs.common.errors import Conflict
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion

RECORDS_MAX = 65536  # of one target; the least recently used go first

Key = tuple[bytes, int]  # client, channel


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished update: what its sender is told, once or again."""

    version: ChunkVersion
    chain_version: ChainVersion
    length: int
    crc32c: int


@dataclass(slots=True)
class Record:
    """The newest update on a channel. Running while `done` is set; finished once `outcome` is."""

    key: Key
    sequence: int
    chunk: ChunkId | None = None
    version: ChunkVersion = ChunkVersion(0)  # at which it was staged; 0: nowhere yet
    outcome: Outcome | None = None
    done: asyncio.Future[None] | None = None


class Superseded(Conflict):
    """A later update on the same channel came first: whoever sent this one has given it up."""

    code = 313


class Channels:
    """The records of one target."""

    def __init__(self) -> None:
        self._records: dict[Key, Record] = {}
        self._unresolved: dict[ChunkId, Record] = {}  # staged, and given up before anybody knew the end

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

    def staged(self, record: Record, chunk: ChunkId, version: ChunkVersion) -> None:
        record.chunk, record.version = chunk, version

    def finish(self, record: Record, outcome: Outcome) -> None:
        """Committed here and on everything behind."""
        record.outcome = outcome
        if record.chunk is not None and self._unresolved.get(record.chunk) is record:
            del self._unresolved[record.chunk]
        self._wake(record)

    def committed(self, chunk: ChunkId, outcome: Outcome) -> None:
        """A chunk's pending state was committed, by whomever: that settles an update given up before."""
        record = self._unresolved.get(chunk)
        if record is not None and record.version <= outcome.version:
            del self._unresolved[chunk]
            record.outcome = record.outcome or outcome

    def forget(self, record: Record) -> None:
        """Refused without any trace: a retry is a new attempt."""
        if self._records.get(record.key) is record:
            del self._records[record.key]
        self._wake(record)

    def give_up(self, record: Record) -> None:
        """Perhaps carried out on some replicas: a retry goes on where this attempt stopped."""
        if record.chunk is not None:
            self._unresolved[record.chunk] = record
        self._wake(record)

    def unresolved(self) -> list[ChunkId]:
        """Chunks with a pending state that nobody works on."""
        return list(self._unresolved)

    def resolved(self, chunk: ChunkId) -> None:
        """The chunk has no pending state any more."""
        self._unresolved.pop(chunk, None)

    def export(self) -> Iterator[Record]:
        """Finished updates, least recently used first."""
        return (record for record in list(self._records.values()) if record.outcome is not None)

    def absorb(self, key: Key, sequence: int, outcome: Outcome) -> None:
        """A finished update that the predecessor knows of; ignored if a later one was seen here."""
        known = self._records.get(key)
        if known is None or known.sequence < sequence:
            self._records[key] = Record(key, sequence, outcome=outcome)
            self._drop_oldest()

    def clear(self) -> None:
        for record in list(self._records.values()):
            self._wake(record)
        self._records.clear()
        self._unresolved.clear()

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
