"""Passes that compute beforehand what does not depend on any input."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

import numpy as np

from featherweight import ops, profiles
from featherweight.calibration.infinity import holding_infinity
from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.ptq.editing import without_orphans
from featherweight.runtime.reference import Execution, evaluate

Names = Set[str]
# Unpacking a stored weight is no computation, and a constant may be read quantized.
_UNPACKING = frozenset({"DEQUANTIZE", "DENSIFY", "QUANTIZE"})
# What a computed constant may take in the file: a mask of 512 by 512.
_MOST_ELEMENTS = 1 << 18


def folded_constants(graph: Graph, taken: Names = frozenset()) -> Graph:
    """What operators compute from constants alone becomes a constant: masks, position numbers."""
    tensors, nodes = dict(graph.tensors), list[Node]()
    for node in graph.nodes:
        found = _computed(node, replace(graph, tensors=tensors)) if _is_constant(node, tensors) else None
        if found is None:
            nodes.append(node)
        else:
            for name, array in found.items():
                data = constant(name, array, tensors[name].dtype).data
                tensors[name] = replace(tensors[name], data=data, shape_signature=None)
    if len(nodes) == len(graph.nodes):
        return graph
    used = {name for node in nodes for name in (*node.inputs, *node.outputs)} | {*graph.inputs, *graph.outputs}
    was_used = {name for node in graph.nodes for name in (*node.inputs, *node.outputs)}
    kept = {name: t for name, t in tensors.items() if name in used or name not in was_used}
    return replace(graph, nodes=tuple(nodes), tensors=kept)


def _is_constant(node: Node, tensors: dict[str, Tensor]) -> bool:
    """True where an operator has inputs, all of them constants, and results that are small and have no free size."""
    op = ops.lookup(node.op)
    inputs = [tensors[name] for name in node.inputs if name]
    outputs = [tensors[name] for name in node.outputs]
    return (
        bool(inputs)
        and node.op not in _UNPACKING
        and not op.calls
        and all(t.is_constant and not t.quant and "sparsity" not in t.extras for t in inputs)
        and all(t.elements <= _MOST_ELEMENTS and -1 not in (t.shape_signature or ()) for t in outputs)
        and not any(t.is_variable for t in (*inputs, *outputs))
    )


def _computed(node: Node, graph: Graph) -> dict[str, np.ndarray] | None:
    """Returns the results of one operator on constants, or None where no kernel of ours computes it."""
    alone = replace(graph, inputs=(), outputs=node.outputs, nodes=(node,))
    try:
        found = evaluate(Execution(Model((alone,)), profiles.find("tflite_ref")), alone, {}, frozenset(node.outputs))
    except FeatherweightError:
        return None
    return found if all(found[name].shape == graph.tensors[name].shape for name in node.outputs) else None


def settled_conditions(graph: Graph, taken: Names = frozenset()) -> Graph:
    """What a condition chooses that can hold only one value: is a score −∞, where nothing masks scores?

    torch's attention replaces the softmax of a row without a single finite score by zeros. Where no infinity comes
    in, there is no such row: SELECT(all(x == −∞), 0, softmax(x)) is softmax(x).
    """
    infinite = holding_infinity(graph)
    settled: dict[str, bool] = {}
    replaced: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(replaced.get(name, name) for name in node.inputs))
        nodes.append(node)
        value = _settled(node, graph, infinite, settled)
        if value is not None:
            settled[node.outputs[0]] = value
        elif node.op in ("SELECT", "SELECT_V2") and node.inputs[0] in settled:
            chosen = node.inputs[1 if settled[node.inputs[0]] else 2]
            result = node.outputs[0]
            if graph.tensors[chosen].shape == graph.tensors[result].shape and result not in graph.outputs:
                replaced[result] = chosen
    return without_orphans(replace(graph, nodes=tuple(nodes)), graph) if replaced else graph


def _settled(node: Node, graph: Graph, infinite: Names, settled: dict[str, bool]) -> bool | None:
    """Returns the one value that all elements of a condition hold, if that is known."""
    if node.op in ("EQUAL", "NOT_EQUAL") and graph.tensors[node.inputs[0]].is_float:
        for x, other in (node.inputs, node.inputs[::-1]):
            values = graph.tensors[other].array if graph.tensors[other].is_constant else None
            if values is not None and values.size and np.isinf(values).all() and x not in infinite:
                return None if graph.tensors[x].is_constant else node.op == "NOT_EQUAL"
    if not node.inputs or node.inputs[0] not in settled:
        return None
    value = settled[node.inputs[0]]
    if node.op == "LOGICAL_NOT":
        return not value
    return value if ops.lookup(node.op).moves_data or node.op in ("REDUCE_ANY", "REDUCE_ALL", "BROADCAST_TO") else None
