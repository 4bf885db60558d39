"""Is every register's history that of one that changes at one moment between a call's start and its end?

Values are unique, so it is known which write each read saw. All operations on one value form a cluster, and in any
legal order clusters follow one another. Cluster v has to come before u if an operation of v ends before one of u
starts; the history is linearisable iff no two clusters have to come before each other and no read ends before its
write starts (P. Gibbons, E. Korach, "Testing shared memories", SIAM J. Comput. 26(4), 1997, theorem 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

from tests.simulation.history import History, Operation, show


@dataclass
class Cluster:
    write: Operation
    reads: list[Operation] = field(default_factory=list)

    @property
    def first_end(self) -> float:
        return min(operation.end for operation in (self.write, *self.reads))

    @property
    def last_start(self) -> float:
        return max(operation.start for operation in (self.write, *self.reads))


def violations(history: History) -> list[str]:
    """One sentence for each register whose reads no order explains."""
    found = []
    for register, operations in history.by_register().items():
        reason = explain(operations)
        if reason:
            found.append(f"chunk {register[0]:#x}.{register[1]} block {register[2]} is not linearisable: {reason}")
    return found


def explain(operations: Iterable[Operation]) -> str:
    """Why one register's history is not linearisable; empty if it is."""
    operations = list(operations)
    initial = Operation("nobody", "write", (0, 0, 0), 0, -math.inf, -math.inf)
    clusters = {0: Cluster(initial)} | {op.value: Cluster(op) for op in operations if op.kind == "write"}
    for read in operations:
        if read.kind != "read" or not read.done:
            continue
        cluster = clusters.get(read.value)
        if cluster is None:
            return f"nobody wrote what was read: {read}"
        if read.end < cluster.write.start:
            return f"read before it was written: {show([read, cluster.write])}"
        cluster.reads.append(read)
    effective = [cluster for cluster in clusters.values() if cluster.write.done or cluster.reads]
    bounds = [(cluster.first_end, cluster.last_start, cluster) for cluster in effective]
    for (end_a, start_a, a), (end_b, start_b, b) in combinations(bounds, 2):
        if end_a < start_b and end_b < start_a:
            return f"{show([a.write, *a.reads])} and {show([b.write, *b.reads])} have to come before each other"
    return ""
