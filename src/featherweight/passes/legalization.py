"""Rewrites of a float graph into operators that integer kernels exist for; each keeps what the graph computes.

A pass is ``Graph -> Graph``: equivalent up to float32 rounding, and idempotent. Tensors that other operators or the
caller can see keep their names; names that it adds are not among those `taken` in the model's other graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight.graph import Graph, Model, Node, Tensor, constant, fresh_name, producers, replace_graph
from featherweight.graph.editor import is_plain, without_orphans
from featherweight.passes.folding import folded_constants, settled_conditions
from featherweight.passes.normalization import centred_normalization, squared_difference_as_product
from featherweight.tflite.sparse_tensors import decoded, is_sparse

Names = Set[str]
Pass = Callable[..., Graph]
_NOTHING: Names = frozenset()


def densified(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """Constants that are stored sparsely become plain ones; a DENSIFY of one becomes the constant."""
    tensors, nodes = dict(graph.tensors), list[Node]()
    for name, tensor in graph.tensors.items():
        tensors[name] = decoded(tensor) if is_sparse(tensor) else tensor
    for node in graph.nodes:
        if node.op == "DENSIFY" and tensors[node.inputs[0]].is_constant:
            tensors[node.outputs[0]] = replace(tensors[node.outputs[0]], data=tensors.pop(node.inputs[0]).data)
        else:
            nodes.append(node)
    changed = len(nodes) < len(graph.nodes) or any(tensors[name] is not graph.tensors[name] for name in tensors)
    return replace(graph, nodes=tuple(nodes), tensors=tensors) if changed else graph


def unpacked_float16(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """A DEQUANTIZE of a float16 constant becomes the float32 constant: what a float16 file's weights are."""
    tensors, nodes = dict(graph.tensors), list[Node]()
    for node in graph.nodes:
        source = tensors.get(node.inputs[0]) if node.op == "DEQUANTIZE" else None
        if source is not None and source.dtype == "float16" and source.is_constant and "sparsity" not in source.extras:
            unpacked = constant(node.outputs[0], np.asarray(source.array).astype(np.float32))
            tensors[unpacked.name] = replace(tensors[unpacked.name], data=unpacked.data)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in (*node.inputs, *node.outputs)} | {*graph.inputs, *graph.outputs}
    kept = {name: t for name, t in tensors.items() if name in used or t.dtype != "float16"}
    return replace(graph, nodes=tuple(nodes), tensors=kept) if len(nodes) < len(graph.nodes) else graph


def negative_of_difference(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``SUB(0, x)`` becomes ``NEG(x)``; exact. A zero has no scale of its own that a difference could be taken at."""

    def negated(node: Node) -> Node:
        if not is_plain(node, "SUB") or not graph.tensors[node.outputs[0]].is_float:
            return node
        zero, x = (graph.tensors[name] for name in node.inputs)
        is_zero = zero.is_constant and not np.asarray(zero.array).any()
        if not is_zero or x.shape != graph.tensors[node.outputs[0]].shape:
            return node
        return Node("NEG", (x.name,), node.outputs)

    nodes = tuple(negated(node) for node in graph.nodes)
    changed = any(new is not old for new, old in zip(nodes, graph.nodes, strict=True))
    return replace(graph, nodes=nodes) if changed else graph


def add_of_negative(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``ADD(a, NEG(b))`` becomes ``SUB(a, b)``; exact. NEG has no sound int8 kernel."""
    made = producers(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "ADD":
            for first, second in (node.inputs, node.inputs[::-1]):
                negated = made.get(second)
                if negated is not None and negated.op == "NEG":
                    attrs = {key: value for key, value in node.attrs.items() if key != "pot_scale_int16"}
                    node = replace(
                        node,
                        op="SUB",
                        inputs=(first, negated.inputs[0]),
                        attrs=attrs,
                        extras=_without_table(node),
                        version=1,
                    )
                    break
        nodes.append(node)
    return without_orphans(replace(graph, nodes=tuple(nodes)), graph, ("NEG",))


def negative_as_product(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``NEG(x)`` becomes ``MUL(x, -1)``; exact."""
    return _as_product(graph, lambda node: np.float32(-1.0) if node.op == "NEG" else None, taken)


def quotient_as_product(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``DIV(x, c)`` with a constant becomes ``MUL(x, 1 / c)``; within one unit in the last place."""

    def reciprocal(node: Node) -> np.ndarray | None:
        divisor = graph.tensors[node.inputs[1]] if node.op == "DIV" else None
        values = divisor.array if divisor is not None and divisor.is_float and divisor.is_constant else None
        if values is None:
            return None
        with np.errstate(divide="ignore", over="ignore"):
            factor = np.float32(1) / values
        return factor if np.isfinite(factor).all() else None

    return _as_product(graph, reciprocal, taken)


def _as_product(graph: Graph, factor_of: Callable[[Node], np.ndarray | np.float32 | None], taken: Names) -> Graph:
    """Replaces nodes for which there is a factor by MUL of their first input with it."""
    nodes: list[Node] = []
    added: dict[str, Tensor] = {}
    for node in graph.nodes:
        is_real = node.inputs and node.inputs[0] and graph.tensors[node.inputs[0]].is_float
        factor = factor_of(node) if is_real else None
        if factor is not None:
            name = fresh_name(f"{node.name}/factor", graph.tensors.keys() | added.keys() | taken)
            added[name] = constant(name, np.asarray(factor))
            activation = node.attrs.get("fused_activation_function", "NONE")
            attrs = {"fused_activation_function": activation}
            node = Node("MUL", (node.inputs[0], name), node.outputs, attrs, extras=_without_table(node))
        nodes.append(node)
    if not added:
        return graph
    return replace(graph, nodes=tuple(nodes), tensors=dict(graph.tensors) | added)


def _without_table(node: Node) -> dict[str, Any]:
    """Returns what a file says about a node that becomes another operator, less the table of its options."""
    return {key: value for key, value in node.extras.items() if key != "options"}


PASSES: tuple[Pass, ...] = (
    densified,
    unpacked_float16,
    folded_constants,
    settled_conditions,
    negative_of_difference,
    centred_normalization,
    squared_difference_as_product,
    add_of_negative,
    negative_as_product,
    quotient_as_product,
)


def prepare(model: Model) -> Model:
    """Returns the model with all passes applied, in order, to all its graphs."""
    for rewrite_graph in PASSES:
        for index, graph in enumerate(model.graphs):
            taken = {name for other in model.graphs if other is not graph for name in other.tensors}
            model = replace_graph(model, index, rewrite_graph(graph, taken))
    return model
