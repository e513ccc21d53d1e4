"""The pass that writes normalizations as integers want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

import numpy as np

from featherweight.graph import Graph, Node, Tensor, producers
from featherweight.graph.editor import Editor, is_plain, without_orphans

Names = Set[str]
_ARITHMETIC = frozenset({"MUL", "ADD", "NEG", "RESHAPE"})


def centred_normalization(graph: Graph, taken: Names = frozenset()) -> Graph:
    """``x·s + (b − m·s)`` becomes ``(x − m)·s + b``: how frameworks write a layer norm, and how integers want it.

    The first form is the small difference of two large numbers, each rounded to its own grid. Where scale and shift
    are computed in another shape (litert-torch), the mean is brought into the scale's.
    """
    made, edit = producers(graph), Editor(graph, set(taken))
    for node in graph.nodes:
        found = _shifted_product(node, made, graph.tensors)
        if found is None:
            edit.nodes.append(node)
            continue
        x, scale, mean, bias, reshaped = found
        if reshaped is not None:
            mean = _reshaped_like(edit, mean, reshaped)
        centred = _subtraction(edit.nodes, x, mean)
        if centred is None:
            centred = edit.add(replace(edit.tensors[x], name=f"{node.name}/centred"))
            edit.node("SUB", (x, mean), (centred,))
        if bias is None:
            edit.node("MUL", (centred, scale), node.outputs)
            continue
        scaled = edit.add(replace(edit.tensors[node.name], name=f"{node.name}/scaled"))
        edit.node("MUL", (centred, scale), (scaled,))
        edit.nodes.append(replace(node, inputs=(scaled, bias)))
    return without_orphans(edit.result(), graph, _ARITHMETIC)


def squared_difference_as_product(graph: Graph, taken: Names = frozenset()) -> Graph:
    """``(x − m)²`` becomes ``d·d`` where ``d = x − m`` is computed all the same; exact.

    The integer kernel of the square rounds both operands to a common scale first, and there is none for 16 bits.
    """
    differences = {node.inputs: node for node in graph.nodes if is_plain(node, "SUB")}
    edit, moved = Editor(graph), set[str]()
    for node in graph.nodes:
        difference = differences.get(node.inputs) if node.op == "SQUARED_DIFFERENCE" else None
        if difference is None:
            edit.nodes += [] if node.name in moved else [node]
            continue
        if difference not in edit.nodes:
            edit.nodes.append(difference)
            moved.add(difference.name)
        edit.node("MUL", (difference.name, difference.name), node.outputs)
    return edit.result()


_Found = tuple[str, str, str, str | None, Node | None]


def _shifted_product(node: Node, made: Mapping[str, Node], tensors: Mapping[str, Tensor]) -> _Found | None:
    """Returns (x, s, m, b or None, how m must be reshaped or None) of ``x·s + (b − m·s)`` or ``x·s + −m·s``."""
    if not is_plain(node, "ADD"):
        return None
    for first, second in (node.inputs, node.inputs[::-1]):
        product, shift = made.get(first), made.get(second)
        if not is_plain(product, "MUL") or shift is None:
            continue
        for mean_product, bias, reshape in _negative_products(shift, made, tensors):
            for scale in product.inputs:
                of_scale, as_shift = _behind_reshape(scale, reshape, made, tensors)
                if of_scale in mean_product:
                    x = product.inputs[1] if scale == product.inputs[0] else product.inputs[0]
                    mean = mean_product[1] if of_scale == mean_product[0] else mean_product[0]
                    return x, scale, mean, bias, as_shift
    return None


def _behind_reshape(
    scale: str, reshape: Node | None, made: Mapping[str, Node], tensors: Mapping[str, Tensor]
) -> tuple[str, Node | None]:
    """Returns the scale as it stands in the shift's product, and the RESHAPE that the mean needs, if there is one."""
    if reshape is None:
        return scale, None
    node = made.get(scale)
    is_alike = node is not None and node.op == "RESHAPE"
    if node is None or not is_alike or tensors[scale].shape != tensors[reshape.outputs[0]].shape:
        return "", None
    return node.inputs[0], node


def _negative_products(
    shift: Node, made: Mapping[str, Node], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[tuple[str, str], str | None, Node | None]]:
    """Yields ((m, s), b, RESHAPE or None) for what can be read as ``b − m·s``, where m and s may be reshaped."""
    reshape = shift if shift.op == "RESHAPE" else None
    if reshape is not None:
        inner = made.get(shift.inputs[0])
        if inner is None:
            return
        shift = inner
    if is_plain(shift, "MUL") or shift.op == "NEG":
        candidates: list[tuple[Node | None, str | None]] = [(shift, None)]
    elif is_plain(shift, "ADD") and reshape is None:
        candidates = [(made.get(a), b) for a, b in (shift.inputs, shift.inputs[::-1])]
    else:
        candidates = []
    for product, bias in candidates:
        if (whole := _negated(product, tensors)) is not None and is_plain(negated := made.get(whole), "MUL"):
            yield (negated.inputs[0], negated.inputs[1]), bias, reshape
        elif is_plain(product, "MUL"):
            for negative, scale in (product.inputs, product.inputs[::-1]):
                if (mean := _negated(made.get(negative), tensors)) is not None:
                    yield (mean, scale), bias, reshape


def _negated(node: Node | None, tensors: Mapping[str, Tensor]) -> str | None:
    """Returns x where a node computes −x: as NEG, or as the product that NEG is written as for integers."""
    if node is not None and node.op == "NEG":
        return node.inputs[0]
    if is_plain(node, "MUL") and (factor := tensors[node.inputs[1]]).is_constant:
        return node.inputs[0] if (np.asarray(factor.array) == -1).all() else None
    return None


def _reshaped_like(edit: Editor, mean: str, reshape: Node) -> str:
    """Returns the mean in the shape that a RESHAPE gives, by an operator that is there already, or a new one."""
    wanted = edit.tensors[reshape.name]
    for node in edit.nodes:
        if node.op == "RESHAPE" and node.inputs[0] == mean and edit.tensors[node.name].shape == wanted.shape:
            return node.name
    name = edit.add(replace(wanted, name=f"{mean}/reshaped"))
    edit.nodes.append(replace(reshape, inputs=(mean, *reshape.inputs[1:]), outputs=(name,)))
    return name


def _subtraction(nodes: list[Node], x: str, mean: str) -> str | None:
    """Returns the tensor that holds x − mean already, if there is one."""
    return next((n.outputs[0] for n in nodes if is_plain(n, "SUB") and n.inputs == (x, mean)), None)
