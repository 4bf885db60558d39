"""Ray clusters of nodes with one CPU each, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def growing_cluster() -> Iterator[tuple[str, Callable[[], object]]]:
    """The address of a cluster of one node, and what adds another."""
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        yield cluster.address, lambda: cluster.add_node(**node)
    finally:
        cluster.shutdown()


@contextmanager
def two_nodes() -> Iterator[str]:
    """Its address."""
    with growing_cluster() as (address, add_node):
        add_node()
        yield address
