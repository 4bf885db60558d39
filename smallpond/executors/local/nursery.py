"""The nursery: a small process that imports the engines once and forks workers on request.

Run as `python -m threefs.smallpond.executors.local.nursery FD`. It stays single-threaded, so that forking is safe, and
never imports the user's program: scripts need no `if __name__ == "__main__"` guard. One rule: when the driver's end of
a socket closes, the process behind it ends, whatever it is doing; a killed driver leaves nothing behind.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterable

from threefs.smallpond.executors import numa
from threefs.smallpond.executors.local import channel

PRELOAD = (
    "pyarrow",
    "pyarrow.parquet",
    "pyarrow.compute",
    "duckdb",
    "cloudpickle",
    "threefs.smallpond.execution.program",
)


def _preload(names: Iterable[str]) -> None:
    for name in names:
        __import__(name)


def serve_worker(sock: socket.socket) -> None:
    """A worker's life: run payloads one after the other until the driver hangs up."""
    from threefs.smallpond.executors.payload import run_payload

    inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()

    def read() -> None:
        while True:
            try:
                inbox.put(channel.receive(sock))
            except EOFError:
                os._exit(0)  # the driver is gone or gave us up: nobody waits for what still runs

    threading.Thread(target=read, name="smallpond-inbox", daemon=True).start()
    while True:
        channel.send(sock, run_payload(*inbox.get()))


def _fork_worker(control: socket.socket, fd: int, turn: int, nodes: dict[int, set[int]]) -> int:
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    try:
        control.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
        numa.bind_in_turn(turn, nodes)
        serve_worker(socket.socket(fileno=fd))
    finally:
        os._exit(1)


def _reap(pid: int) -> str:
    """How a worker ended, in words."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return "ended"
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exited with status {os.waitstatus_to_exitcode(status)}"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    _preload(PRELOAD)
    nodes = numa.numa_nodes() if os.environ.get(numa.VARIABLE) == "1" else {}
    forked = 0
    while True:
        message, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            os._exit(0)
        command, _, argument = message.decode().partition(" ")
        if command == "fork":
            reply = str(_fork_worker(control, fds[0], forked, nodes))
            forked += 1
        else:
            assert command == "reap", command
            reply = _reap(int(argument))
        try:
            control.sendall(reply.encode().ljust(64))
        except OSError:  # the driver is gone
            os._exit(0)


if __name__ == "__main__":
    main()
