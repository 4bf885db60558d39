"""Ports for daemons that are started on this machine a moment later, or again after a while.

Used by development clusters and by tests. The rule kept here: a port that the kernel deals out by itself, to whoever
connects or listens without naming one, is not chosen, because it may have been dealt out when the daemon starts.
"""

from __future__ import annotations

import socket
from pathlib import Path
from random import SystemRandom
from typing import Final

PORT_MIN: Final = 10_000  # below it are the ports of well-known services
PORT_MAX: Final = 65_535
DEALT_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now, all different."""
    first, last = map(int, DEALT_OUT.read_text().split())
    ours = [port for port in range(PORT_MIN, PORT_MAX + 1) if not first <= port <= last]
    if len(ours) < 100 * count:  # this machine deals out nearly all
        ours = list(range(PORT_MIN, PORT_MAX + 1))
    SystemRandom().shuffle(ours)
    found: list[int] = []
    while len(found) < count:
        port = ours.pop()
        if _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
