"""Is anybody there? Asked at the address of a daemon whose heartbeats have stopped; called by the server's check.

A process that was killed leaves a machine that refuses connections at once; one that is cut off, or stands still,
leaves silence. The one rule: a refusal only shortens the wait for a daemon that has fenced itself already. It proves
nothing by itself: a firewall may refuse new connections while the daemon serves on over old ones.
"""

from __future__ import annotations

from typing import Final

from threefs.common.errors import Refused, ThreefsError
from threefs.common.net.interface import Transport
from threefs.common.net.service import invoke
from threefs.proto import core_pb2 as pb
from threefs.proto.core_rpc import Core

PROBE_S: Final = 0.3  # the check of all other daemons waits for it


async def refuses_connections(transport: Transport, address: str) -> bool:
    """True if nobody listens there; False for any answer, and for none."""
    try:
        await invoke(transport, address, Core.ECHO, pb.EchoRequest(), timeout_s=PROBE_S)
    except Refused:
        return True
    except ThreefsError:
        return False
    return False
