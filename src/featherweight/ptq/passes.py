"""Rewrites of a float graph into operators that integer kernels exist for; each keeps what the graph computes.

A pass is ``Graph -> Graph``: equivalent up to float32 rounding, and idempotent. Tensors that other operators or the
caller can see keep their names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from featherweight.graph import Graph, Model, Node, Tensor, constant, consumers, fresh_name, producers

Pass = Callable[[Graph], Graph]


def add_of_negative(graph: Graph) -> Graph:
    """``ADD(a, NEG(b))`` becomes ``SUB(a, b)``; exact. NEG has no sound int8 kernel."""
    made = producers(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "ADD":
            for first, second in (node.inputs, node.inputs[::-1]):
                negated = made.get(second)
                if negated is not None and negated.op == "NEG":
                    attrs = {key: value for key, value in node.attrs.items() if key != "pot_scale_int16"}
                    extras = dict(node.extras) | {"options": "SubOptions"}
                    node = replace(
                        node,
                        op="SUB",
                        inputs=(first, negated.inputs[0]),
                        attrs=attrs,
                        extras=extras,
                        version=1,
                    )
                    break
        nodes.append(node)
    return without_unused(replace(graph, nodes=tuple(nodes)))


def negative_as_product(graph: Graph) -> Graph:
    """``NEG(x)`` becomes ``MUL(x, -1)``; exact."""
    return _as_product(graph, lambda node: np.float32(-1.0) if node.op == "NEG" else None)


def quotient_as_product(graph: Graph) -> Graph:
    """``DIV(x, c)`` with a constant becomes ``MUL(x, 1 / c)``; within one unit in the last place."""

    def reciprocal(node: Node) -> np.ndarray | None:
        divisor = graph.tensors[node.inputs[1]] if node.op == "DIV" else None
        values = divisor.array if divisor is not None and divisor.is_float and divisor.is_constant else None
        if values is None or not values.all():
            return None
        return np.float32(1) / values

    return _as_product(graph, reciprocal)


def _as_product(graph: Graph, factor_of: Callable[[Node], np.ndarray | np.float32 | None]) -> Graph:
    """Replaces nodes for which there is a factor by MUL of their first input with it."""
    nodes: list[Node] = []
    added: dict[str, Tensor] = {}
    for node in graph.nodes:
        factor = factor_of(node) if graph.tensors[node.inputs[0]].is_float else None
        if factor is not None:
            name = fresh_name(f"{node.name}/factor", graph.tensors.keys() | added.keys())
            added[name] = constant(name, np.asarray(factor))
            activation = node.attrs.get("fused_activation_function", "NONE")
            attrs = {"fused_activation_function": activation}
            extras = dict(node.extras) | {"options": "MulOptions"}
            node = Node("MUL", (node.inputs[0], name), node.outputs, attrs, 1, None, extras)
        nodes.append(node)
    if not added:
        return graph
    return replace(graph, nodes=tuple(nodes), tensors=dict(graph.tensors) | added)


def without_unused(graph: Graph) -> Graph:
    """Leaves out every NEG that nothing reads any more, with its tensor."""
    read = consumers(graph)
    gone = {n.outputs[0] for n in graph.nodes if n.op == "NEG" and n.outputs[0] not in {*read, *graph.outputs}}
    if not gone:
        return graph
    nodes = tuple(node for node in graph.nodes if node.outputs[0] not in gone)
    return replace(graph, nodes=nodes, tensors={k: t for k, t in graph.tensors.items() if k not in gone})


PASSES: tuple[Pass, ...] = (add_of_negative, negative_as_product, quotient_as_product)


def prepare(model: Model) -> Model:
    """Returns the model with all passes applied, in order, to all its graphs."""
    graphs = model.graphs
    for rewrite_graph in PASSES:
        graphs = tuple(rewrite_graph(graph) for graph in graphs)
    return replace(model, graphs=graphs)
