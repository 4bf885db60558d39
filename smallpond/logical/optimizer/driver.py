"""Applies the rules bottom-up; the last ones look at what the first ones left.

Every rule either proves that its plan gives the same rows, or leaves the node alone. A node that several others read is
never merged into one of them, and neither is one whose result exists already or was asked for by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from threefs.smallpond.logical.node import Context, Node, SqlEngineNode
from threefs.smallpond.logical.node.plan import walk
from threefs.smallpond.logical.optimizer.exchange import into_exchange
from threefs.smallpond.logical.optimizer.fusion import fuse
from threefs.smallpond.logical.optimizer.pruning import prune
from threefs.smallpond.logical.schema import SchemaCache


class Rewriter:
    """One optimisation: what is shared, what is known of schemas, what was rewritten."""

    def __init__(self, ctx: Context, roots: Sequence[Node], computed: AbstractSet[int]) -> None:
        self.ctx = ctx
        self.schemas = SchemaCache()
        self._computed = computed
        self._readers = Counter(id(dep) for node in _all(roots) for dep in node.input_deps)
        self._readers.update(id(root) for root in roots)
        self._done: dict[int, Node] = {}
        self._kept: set[int] = set()  # ids of rewritten nodes that must stay whole

    def rewrite(self, root: Node) -> Node:
        for node in walk(root):
            if id(node) not in self._done:
                self._done[id(node)] = self._one(node)
        return self._done[id(root)]

    def _one(self, node: Node) -> Node:
        if node.id in self._computed:
            self._kept.add(id(node))
            return node  # its results are addressed by the plan as it was
        found = node.with_inputs([self._done[id(dep)] for dep in node.input_deps])
        if isinstance(found, SqlEngineNode):
            found = fuse(found, self.may_merge)
            found = into_exchange(self.ctx, found, self.may_merge, self.schemas)
        if self._readers[id(node)] > 1 or node.output_name is not None:
            self._kept.add(id(found))
        return found

    def may_merge(self, node: Node) -> bool:
        return id(node) not in self._kept


def optimize(ctx: Context, roots: Sequence[Node], computed: AbstractSet[int] = frozenset()) -> list[Node]:
    """Equivalent plans for these roots. `computed`: ids of nodes whose results exist; they are read, not rewritten."""
    rewriter = Rewriter(ctx, roots, computed)
    rewritten = [rewriter.rewrite(root) for root in roots]
    return prune(rewritten, rewriter.schemas, computed)


def _all(roots: Sequence[Node]) -> list[Node]:
    return list({id(node): node for root in roots for node in walk(root)}.values())
