"""NUMA: which cores belong to one node, and keeping a process on one.

Worker processes bind themselves to the cores of a node, each to the next; their memory then comes from there too, which
is what the kernel does unless it is told otherwise. One rule: a machine without NUMA (or a kernel that tells nothing of
it, as under WSL) is one node, and binding to it changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

NODES = Path("/sys/devices/system/node")
VARIABLE = "THREEFS_BIND_NUMA_NODE"  # "1" in the environment of workers that shall bind themselves


def parse_list(text: str) -> set[int]:
    """`0-3,8` as the kernel writes it."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def numa_nodes(root: Path = NODES) -> dict[int, set[int]]:
    """The cores of each node that has some which this process may use; empty where the kernel knows of none."""
    allowed = os.sched_getaffinity(0)
    found = {}
    for path in root.glob("node[0-9]*"):
        cores = parse_list((path / "cpulist").read_text()) & allowed
        if cores:
            found[int(path.name.removeprefix("node"))] = cores
    return dict(sorted(found.items()))


def bind_in_turn(turn: int, nodes: dict[int, set[int]]) -> int | None:
    """Keep this process on one of several nodes; which one, or None where there is no choice."""
    if len(nodes) < 2:
        return None
    node = list(nodes)[turn % len(nodes)]
    os.sched_setaffinity(0, nodes[node])
    return node
