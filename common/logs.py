"""Structured logs: one line an event, JSON for machines or plain for people, to stderr.

Modules log with the standard library (`logging.getLogger(__name__)`); `setup` is called once, by a process's main.
Extra fields (`extra={"chain": 7}`) become keys of the JSON line.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "node", "message", …extra, "error"} on one line."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("threefs."),
            "node": self._node,
            "message": record.getMessage(),
        }
        event.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class PlainFormatter(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__(f"%(asctime)s.%(msecs)03d {node} %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")


def setup(*, node: str, level: str = "info", json_lines: bool = False) -> None:
    """Sends all logs of this process to stderr; `node` says who speaks (for example "storage-3")."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(node) if json_lines else PlainFormatter(node))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
