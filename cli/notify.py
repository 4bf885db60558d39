"""The supervisor's side of a daemon: sd_notify(3), without a library."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Tells the service manager, if there is one, "READY=1", "STOPPING=1" or "STATUS=…"."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        sock.sendall(state.encode())
