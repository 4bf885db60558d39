"""The logical plan: a root node and what is below it, with a visitor and a text form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from threefs.smallpond.logical.node.base import Context, Node, NodeId

T = TypeVar("T")


def walk(root: Node) -> Iterator[Node]:
    """Every node below and with `root`, each once, inputs before those who read them."""
    done: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            yield node
        else:
            stack.append((node, True))
            stack.extend((dep, False) for dep in reversed(node.input_deps))


class LogicalPlan:
    def __init__(self, ctx: Context, root_node: Node) -> None:
        self.ctx = ctx
        self.root_node = root_node

    @property
    def nodes(self) -> dict[NodeId, Node]:
        return {node.id: node for node in walk(self.root_node)}

    def explain_str(self) -> str:
        """The tree of nodes, the result first; a node that is read twice is shown once."""
        lines: list[str] = []
        seen: set[int] = set()

        def show(node: Node, indent: str, last: bool, top: bool) -> None:
            head = indent + ("" if top else "└─ " if last else "├─ ")
            again = "  (see above)" if id(node) in seen else ""
            lines.append(f"{head}{node}{again}")
            if again:
                return
            seen.add(id(node))
            below = indent + ("" if top else "   " if last else "│  ")
            for index, dep in enumerate(node.input_deps):
                show(dep, below, index == len(node.input_deps) - 1, False)

        show(self.root_node, "", True, True)
        return "\n".join(lines)

    __str__ = explain_str

    def graph(self) -> str:
        """The plan in Graphviz' language."""
        return to_dot(self.root_node)


def to_dot(root: Node) -> str:
    lines = ["digraph plan {", "  rankdir=BT; node [shape=box, fontname=monospace];"]
    names = {id(node): f"n{index}" for index, node in enumerate(walk(root))}
    for node in walk(root):
        text = str(node).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'  {names[id(node)]} [label="{text[:120]}"];')
        lines += [f"  {names[id(dep)]} -> {names[id(node)]};" for dep in node.input_deps]
    return "\n".join([*lines, "}"])


class LogicalPlanVisitor(Generic[T]):
    """Override `generic_visit` or the `visit_…_node` of a family; each gets the node and its depth."""

    def visit(self, node: Node, depth: int = 0) -> T:
        """The first family of the node's, from the narrowest, whose method somebody overrode."""
        for cls in type(node).__mro__:
            name = f"visit_{_snake(cls.__name__)}"
            if getattr(type(self), name, None) is not getattr(LogicalPlanVisitor, name, None):
                found: T = getattr(self, name)(node, depth)
                return found
        return self.generic_visit(node, depth)

    def generic_visit(self, node: Node, depth: int) -> T:
        result: Any = None
        for dep in node.input_deps:
            result = self.visit(dep, depth + 1)
        found: T = result
        return found

    # what `super().visit_…` of an override finds

    def visit_data_source_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_data_sink_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_root_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_union_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_consolidate_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_partition_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_python_script_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_arrow_compute_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_arrow_stream_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_query_engine_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_projection_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)

    def visit_limit_node(self, node: Node, depth: int) -> T:
        return self.generic_visit(node, depth)


_ALIASES = {"SqlEngineNode": "query_engine_node"}


def _snake(name: str) -> str:
    if name in _ALIASES:
        return _ALIASES[name]
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
