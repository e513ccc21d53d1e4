"""The pass that makes an activation behind an operator a part of it; exact, and one operator less."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from featherweight.graph import Graph, Model, Node, consumers, producers
from featherweight.graph.editor import Editor, without_unused
from featherweight.operators import lookup
from featherweight.operators.call import FUSED_BOUNDS, fused_activation
from featherweight.tflite.names import FUSED_ACTIVATIONS

Bounds = tuple[float | None, float | None]
# Bounds that the file format has a name for.
_NAMES: dict[Bounds, str] = {bounds: name for name, bounds in FUSED_BOUNDS.items() if name in FUSED_ACTIVATIONS}


def fused_activations(graph: Graph, taken: Set[str] = frozenset()) -> Graph:
    """An activation that alone reads the result of an operator is fused into it: ``RELU6(CONV_2D(x))``; exact.

    Of two, one behind the other, the operator gets what both make of a number.
    """
    made, read, edit = producers(graph), consumers(graph), Editor(graph)
    fused: dict[str, Node] = {}  # what an activation gave → the operator that gives it
    for node in graph.nodes:
        source = fused.get(node.inputs[0]) or made.get(node.inputs[0]) if node.op in FUSED_BOUNDS else None
        activation = _both(source, node, graph) if source is not None and len(read[node.inputs[0]]) == 1 else None
        if source is None or activation is None:
            edit.nodes.append(node)
            continue
        attrs = {**source.attrs, "fused_activation_function": activation}
        fused[node.name] = replace(source, outputs=node.outputs, attrs=attrs)
        edit.nodes[edit.nodes.index(source)] = fused[node.name]
    return without_unused(edit.result(), before=graph)


def _both(source: Node, node: Node, graph: Graph) -> str | None:
    """Returns the activation with which an operator computes what another makes of its result, or None."""
    if not lookup(source.op).fuses or len(source.outputs) != 1 or source.outputs[0] in graph.outputs:
        return None
    tensors = [graph.tensors[name] for name in (node.inputs[0], node.outputs[0])]
    first = FUSED_BOUNDS.get(fused_activation(source))
    if first is None or any(not t.is_float or t.is_variable for t in tensors) or tensors[0].shape != tensors[1].shape:
        return None
    second = FUSED_BOUNDS[node.op]
    lows, highs = ([b for b in pair if b is not None] for pair in zip(first, second, strict=True))
    low, high = max(lows, default=None), min(highs, default=None)
    return _NAMES.get((low, high)) if low is None or high is None or low < high else None


def count_fused(before: Model, after: Model) -> int:
    """Returns how many activations that were operators have become parts of others."""
    gone = {node.name for graph in after.graphs for node in graph.nodes if node.op not in FUSED_BOUNDS}
    return sum(node.op in FUSED_BOUNDS and node.name in gone for graph in before.graphs for node in graph.nodes)
