"""Client sessions: which mounts and programs are alive. In the primary's memory only; pure but for the time it is told.

The one rule: a session that is not in the list proves that its client is gone only once this primary has been one
for a whole session timeout (`complete`); before that, the client may not have come round to extending it here.
"""

from __future__ import annotations

from dataclasses import dataclass

from threefs.common.errors import BadRequest, Throttled
from threefs.proto import mgmtd_pb2 as pb

SESSIONS_MAX = 100_000


@dataclass(slots=True)
class _Session:
    message: pb.ClientSession
    extended_at: float


class Sessions:
    def __init__(self, *, timeout_s: float, since: float, since_us: int) -> None:
        self.timeout_s = timeout_s
        self.since_us = since_us
        self._since = since
        self._sessions: dict[bytes, _Session] = {}

    def extend(self, message: pb.ClientSession, *, now: float, now_us: int) -> None:
        """Opens the session, or keeps it alive with what the client says of itself now."""
        if len(message.client) != 16:
            raise BadRequest(f"a client id has 16 bytes, not {len(message.client)}")
        if message.client not in self._sessions and len(self._sessions) >= SESSIONS_MAX:
            raise Throttled(f"{SESSIONS_MAX} client sessions are open: close some, or wait until they expire")
        kept = pb.ClientSession()
        kept.CopyFrom(message)
        kept.extended_us = now_us
        self._sessions[message.client] = _Session(kept, now)

    def end(self, client: bytes) -> None:
        self._sessions.pop(client, None)

    def expire(self, now: float) -> list[pb.ClientSession]:
        """Drops the sessions that were not extended in time, and says which."""
        gone = [s.message for s in self._sessions.values() if now - s.extended_at > self.timeout_s]
        for message in gone:
            del self._sessions[message.client]
        return gone

    def get(self, client: bytes) -> pb.ClientSession | None:
        found = self._sessions.get(client)
        return found.message if found is not None else None

    def all(self) -> list[pb.ClientSession]:
        return [session.message for session in self._sessions.values()]

    def complete(self, now: float) -> bool:
        return now - self._since > self.timeout_s
