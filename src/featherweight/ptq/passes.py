"""Rewrites of a float graph into operators that integer kernels exist for; each keeps what the graph computes.

A pass is ``Graph -> Graph``: equivalent up to float32 rounding, and idempotent. Tensors that other operators or the
caller can see keep their names; names that it adds are not among those `taken` in the model's other graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from typing import TypeGuard

import numpy as np

from featherweight.graph import Graph, Model, Node, Tensor, constant, consumers, fresh_name, producers, replace_graph
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


def centred_normalization(graph: Graph, taken: Names = _NOTHING) -> Graph:
    """``x·s + (b − m·s)`` becomes ``(x − m)·s + b``: how frameworks write a layer norm, and how integers want it.

    The first form is the small difference of two large numbers, each rounded to its own grid.
    """
    made = producers(graph)
    tensors, nodes = dict(graph.tensors), list[Node]()
    for node in graph.nodes:
        found = _shifted_product(node, made)
        if found is None:
            nodes.append(node)
            continue
        x, scale, mean, bias = found
        centred = _subtraction(nodes, x, mean)
        if centred is None:
            centred = fresh_name(f"{node.name}/centred", tensors.keys() | taken)
            tensors[centred] = replace(tensors[x], name=centred)
            nodes.append(_binary("SUB", x, mean, centred))
        if bias is None:
            nodes.append(_binary("MUL", centred, scale, node.outputs[0]))
            continue
        scaled = fresh_name(f"{node.name}/scaled", tensors.keys() | taken)
        tensors[scaled] = replace(tensors[node.outputs[0]], name=scaled)
        nodes += [_binary("MUL", centred, scale, scaled), replace(node, inputs=(scaled, bias))]
    return _without_orphans(replace(graph, nodes=tuple(nodes), tensors=tensors), graph)


def _shifted_product(node: Node, made: Mapping[str, Node]) -> tuple[str, str, str, str | None] | None:
    """Returns (x, s, m, b or None) if the node is ``x·s + (b − m·s)`` or ``x·s + −m·s``."""
    if not _is_plain(node, "ADD"):
        return None
    for first, second in (node.inputs, node.inputs[::-1]):
        product, shift = made.get(first), made.get(second)
        if not _is_plain(product, "MUL") or shift is None:
            continue
        for mean_product, bias in _negative_products(shift, made):
            for scale in product.inputs:
                if scale in mean_product:
                    x = product.inputs[1] if scale == product.inputs[0] else product.inputs[0]
                    mean = mean_product[1] if scale == mean_product[0] else mean_product[0]
                    return x, scale, mean, bias
    return None


def _negative_products(shift: Node, made: Mapping[str, Node]) -> Iterator[tuple[tuple[str, str], str | None]]:
    """Yields ((m, s), b) for what can be read as ``b − m·s``."""
    if _is_plain(shift, "MUL"):
        candidates: list[tuple[Node | None, str | None]] = [(shift, None)]
    elif _is_plain(shift, "ADD"):
        candidates = [(made.get(a), b) for a, b in (shift.inputs, shift.inputs[::-1])]
    else:
        candidates = []
    for product, bias in candidates:
        if _is_plain(product, "MUL"):
            for negative, scale in (product.inputs, product.inputs[::-1]):
                if (negated := made.get(negative)) is not None and negated.op == "NEG":
                    yield (negated.inputs[0], scale), bias


def _is_plain(node: Node | None, op: str) -> TypeGuard[Node]:
    """True for an operator of that type without a fused activation."""
    return node is not None and node.op == op and node.attrs.get("fused_activation_function", "NONE") == "NONE"


def _subtraction(nodes: list[Node], x: str, mean: str) -> str | None:
    """Returns the tensor that holds x − mean already, if there is one."""
    return next((n.outputs[0] for n in nodes if _is_plain(n, "SUB") and n.inputs == (x, mean)), None)


def _binary(op: str, first: str, second: str, output: str) -> Node:
    attrs = {"fused_activation_function": "NONE"}
    return Node(op, (first, second), (output,), attrs, extras={"options": f"{op.capitalize()}Options"})


def _without_orphans(graph: Graph, before: Graph) -> Graph:
    """Leaves out operators whose results were read before a pass and are not any more, with their tensors."""
    was_read = consumers(before)
    while True:
        read = consumers(graph)
        gone = {
            n.outputs[0]
            for n in graph.nodes
            if n.op in {"MUL", "ADD", "NEG"}
            and n.outputs[0] in was_read
            and n.outputs[0] not in {*read, *graph.outputs}
        }
        if not gone:
            return graph
        nodes = tuple(node for node in graph.nodes if not node.outputs or node.outputs[0] not in gone)
        graph = replace(graph, nodes=nodes, tensors={k: t for k, t in graph.tensors.items() if k not in gone})


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
    return _without_orphans(replace(graph, nodes=tuple(nodes)), graph)


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
            extras = dict(node.extras) | {"options": "MulOptions"}
            node = Node("MUL", (node.inputs[0], name), node.outputs, attrs, 1, None, extras)
        nodes.append(node)
    if not added:
        return graph
    return replace(graph, nodes=tuple(nodes), tensors=dict(graph.tensors) | added)


PASSES: tuple[Pass, ...] = (
    densified,
    unpacked_float16,
    centred_normalization,
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
