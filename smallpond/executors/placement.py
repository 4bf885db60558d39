"""Which host an item may start on: admission by free CPUs, GPUs and memory, the least loaded host first.

Pure bookkeeping for executors that place items themselves (local, MPI, file queues). One rule: the sum of the requests
of the items on a host never exceeds what the host has.
"""

from __future__ import annotations

from collections import OrderedDict

from threefs.smallpond.executors.interface import Host, Resources, WorkItem

LOOKAHEAD_MAX = 64  # queued items looked at behind one that does not fit: small ones may pass, bounded


class Placement:
    """Not thread-safe: its owner holds a lock."""

    def __init__(self) -> None:
        self._free: dict[str, Resources] = {}
        self._total: dict[str, Resources] = {}
        self._queue: OrderedDict[str, WorkItem] = OrderedDict()
        self._placed: dict[str, tuple[str, WorkItem]] = {}

    def add_host(self, host: Host) -> None:
        self._free[host.name] = self._total[host.name] = host.total

    def remove_host(self, name: str) -> list[WorkItem]:
        """Forget a host; returns the items that were on it."""
        self._free.pop(name, None)
        self._total.pop(name, None)
        lost = [item for placed_on, item in self._placed.values() if placed_on == name]
        for item in lost:
            del self._placed[item.id]
        return lost

    def hosts(self) -> list[Host]:
        return [Host(name, total) for name, total in self._total.items()]

    def queued(self) -> int:
        return len(self._queue)

    def enqueue(self, item: WorkItem) -> None:
        assert item.id not in self._queue, f"item {item.id} submitted twice"
        assert item.id not in self._placed, f"item {item.id} submitted twice"
        self._queue[item.id] = item

    def withdraw(self, item_id: str) -> bool:
        """Take an item out of the queue; False when it is not queued (any more)."""
        return self._queue.pop(item_id, None) is not None

    def place_next(self, only_host: str | None = None) -> tuple[WorkItem, str] | None:
        """The first queued item that fits somewhere, and where; its resources are taken until `release`."""
        for seen, item in enumerate(self._queue.values()):
            if seen == LOOKAHEAD_MAX:
                return None
            host = self._best_host(item.request, only_host)
            if host is not None:
                del self._queue[item.id]
                self._free[host] = self._free[host].minus(item.request)
                self._placed[item.id] = (host, item)
                return item, host
        return None

    def _best_host(self, request: Resources, only_host: str | None) -> str | None:
        fitting = [
            (free.cpus, free.memory_bytes, name)
            for name, free in self._free.items()
            if free.covers(request) and only_host in (None, name)
        ]
        return max(fitting)[2] if fitting else None

    def release(self, item_id: str) -> bool:
        """Give an item's resources back; False when its host was removed meanwhile."""
        placed = self._placed.pop(item_id, None)
        if placed is None:
            return False
        host, item = placed
        self._free[host] = self._free[host].plus(item.request)
        return True
