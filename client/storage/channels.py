"""Channels of one sender of updates: who may number the next one. Used by the storage client and by daemons.

The one rule: a channel carries one update at a time, under a sequence number above all before it, so that a
target which has seen a later one knows that an earlier one is abandoned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from threefs.common.ids import ClientId

RETRY_S_MAX: Final = 3600.0  # nobody repeats an update for longer; daemons remember what was done for as long at least


@dataclass(frozen=True, slots=True)
class Ticket:
    """The identity of one update; the same on every retry."""

    client: ClientId
    channel: int
    sequence: int


NOBODY: Final = Ticket(ClientId(bytes(16)), 0, 0)  # of updates that no sender would repeat under an identity


class ChannelPool:
    """Hands out channels, lowest first, so that a target keeps as few records as updates were ever in flight."""

    def __init__(self, client: ClientId) -> None:
        self.client = client
        self._free: list[int] = []
        self._made = 0
        self._sequence = 0

    def take(self) -> Ticket:
        self._sequence += 1
        if self._free:
            return Ticket(self.client, self._free.pop(), self._sequence)
        self._made += 1
        return Ticket(self.client, self._made, self._sequence)

    def give_back(self, ticket: Ticket) -> None:
        self._free.append(ticket.channel)
