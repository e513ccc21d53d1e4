"""Pieces that passes over graphs are built from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TypeGuard

from featherweight.graph import Graph, Node, consumers


def is_plain(node: Node | None, op: str) -> TypeGuard[Node]:
    """True for an operator of that type without a fused activation."""
    return node is not None and node.op == op and node.attrs.get("fused_activation_function", "NONE") == "NONE"


def binary(op: str, first: str, second: str, output: str) -> Node:
    """Returns ADD, SUB or MUL of two tensors, without a fused activation."""
    return Node(op, (first, second), (output,), {"fused_activation_function": "NONE"})


def without_orphans(graph: Graph, before: Graph, ops: Collection[str] | None = None) -> Graph:
    """Leaves out operators (of the given types) whose results were read before a pass and are not any more."""
    was_read = consumers(before)
    while True:
        read = {*consumers(graph), *graph.outputs}
        gone = {
            n.outputs[0]
            for n in graph.nodes
            if n.outputs
            and (ops is None or n.op in ops)
            and n.outputs[0] in was_read
            and not any(name in read for name in n.outputs)
        }
        if not gone:
            return graph
        nodes = tuple(node for node in graph.nodes if not node.outputs or node.outputs[0] not in gone)
        left = {name for node in graph.nodes if node not in nodes for name in node.outputs}
        graph = replace(graph, nodes=nodes, tensors={k: t for k, t in graph.tensors.items() if k not in left})
