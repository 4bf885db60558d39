"""The driver's end of the nursery and of one worker process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from threefs.smallpond.executors.interface import Outcome, OutcomeKind, WorkItem
from threefs.smallpond.executors.local import channel


class Nursery:
    """Starts in the background at once; `fork` waits until it is up."""

    def __init__(self, environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        self._lock = threading.Lock()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "threefs.smallpond.executors.local.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
            )

    def _ask(self, message: str, fds: list[int]) -> str:
        with self._lock:
            try:
                socket.send_fds(self._control, [message.encode()], fds)
                reply = self._control.recv(64, socket.MSG_WAITALL)
            except OSError as exc:
                raise EOFError("the process that starts workers is gone") from exc
        if len(reply) < 64:
            raise EOFError(f"the process that starts workers ended (status {self._process.poll()})")
        return reply.decode().strip()

    def fork(self) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid = int(self._ask("fork", [theirs.fileno()]))
        except EOFError:
            ours.close()
            raise
        return Worker(pid, ours, self)

    def reap(self, pid: int) -> str:
        try:
            return self._ask(f"reap {pid}", [])
        except EOFError:
            return "ended"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for a reply
        self._control.close()
        self._process.kill()
        self._process.wait()


class Worker:
    """One worker process; runs one item at a time."""

    def __init__(self, pid: int, sock: socket.socket, nursery: Nursery) -> None:
        self.pid = pid
        self._sock = sock
        self._nursery = nursery

    def run(self, item: WorkItem) -> Outcome:
        """The outcome of an item; LOST when the process dies under it (the worker is useless from then on)."""
        try:
            channel.send(self._sock, (item.id, item.payload))
            outcome: Any = channel.receive(self._sock)
        except (EOFError, OSError):
            how = self._nursery.reap(self.pid)
            self._sock.close()
            return Outcome(item.id, OutcomeKind.LOST, detail=f"worker process {self.pid} {how}")
        assert isinstance(outcome, Outcome), outcome
        return outcome

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self._nursery.reap(self.pid)
        self._sock.close()
