"""Rendezvous hashing: which of the live nodes a key belongs to, so that most keys keep their node when one leaves.

Used to spread work (background shards of metadata, per-inode calls of clients). Nothing may depend on two callers
agreeing: their views of who is alive can differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_MASK: Final = (1 << 64) - 1


def mix(value: int) -> int:
    """A 64-bit permutation (the splitmix64 finaliser): equal on every platform and release."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def owner(key: int, nodes: Sequence[int]) -> int:
    """The index in `nodes` of the one that owns `key`; `nodes` holds node ids, in any order, and is not empty."""
    assert nodes, "no node to own anything"
    return max(range(len(nodes)), key=lambda i: (mix(mix(nodes[i]) ^ key), nodes[i]))
