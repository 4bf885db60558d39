"""Programs: nodes pickled once a run. Large ones (a model captured by a function) travel as a file."""

from __future__ import annotations

import hashlib
import os

from threefs.smallpond.common import MB
from threefs.smallpond.execution.runtime_ctx import RuntimeContext
from threefs.smallpond.executors import payload
from threefs.smallpond.io import filesystem
from threefs.smallpond.logical.node import Node

INLINE_MAX = 1 * MB


class ProgramStore:
    def __init__(self, context: RuntimeContext) -> None:
        self._context = context
        self._known: dict[int, tuple[Node, bytes | str, str]] = {}

    def of(self, node: Node) -> tuple[bytes | str, str]:
        """The program (or its path) and its id. UserCodeError when a function in it cannot be pickled."""
        found = self._known.get(id(node))
        if found is None:
            data = payload.dumps_by_value(node, f"the function of {node} (made at {node.location})")
            name = hashlib.blake2b(data, digest_size=16).hexdigest()
            found = self._known[id(node)] = (node, self._placed(data, name), name)
        return found[1], found[2]

    def _placed(self, data: bytes, name: str) -> bytes | str:
        if len(data) <= INLINE_MAX:
            return data
        path = os.path.join(self._context.staging_root, f"{name}.program")
        if not os.path.exists(path):
            fresh = f"{path}.new"
            with open(fresh, "wb") as file:
                file.write(data)
            filesystem.rename(fresh, path)
        return path
