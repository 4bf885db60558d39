"""What clients did and saw: the record that the checkers judge.

A register is one block of one chunk. Every write carries a value that no other write of the run carries, 0 is what
was there before the first. `end` is infinite while, or if for ever, the outcome is unknown: a write that timed out,
or whose client died, may take effect at any later time or never.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

Register = tuple[int, int, int]  # inode, chunk number, block


@dataclass(slots=True)
class Operation:
    client: str
    kind: str  # "write" or "read"
    register: Register
    value: int
    start: float
    end: float = math.inf

    @property
    def done(self) -> bool:
        return self.end < math.inf

    def __str__(self) -> str:
        end = f"{self.end:.6f}" if self.done else "?"
        return f"{self.client} {self.kind} {self.value} at {self.register} [{self.start:.6f}, {end}]"


@dataclass
class History:
    operations: list[Operation] = field(default_factory=list)

    def add(self, operation: Operation) -> Operation:
        self.operations.append(operation)
        return operation

    def by_register(self) -> dict[Register, list[Operation]]:
        found: dict[Register, list[Operation]] = {}
        for operation in self.operations:
            found.setdefault(operation.register, []).append(operation)
        return found

    def acknowledged(self) -> int:
        return sum(operation.done for operation in self.operations)


def show(operations: Iterable[Operation]) -> str:
    return "; ".join(str(operation) for operation in operations)
