"""The passes that compute beforehand what does not depend on any input."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

import numpy as np

from featherweight import operators
from featherweight.calibration.infinity import holding_infinity
from featherweight.graph import Graph, Node
from featherweight.graph.editor import Editor, without_orphans
from featherweight.runtime.folding import with_folded_constants

Names = Set[str]


def folded_constants(graph: Graph, taken: Names = frozenset()) -> Graph:
    """What operators compute from constants alone becomes a constant: masks, position numbers."""
    return with_folded_constants(graph)


def settled_conditions(graph: Graph, taken: Names = frozenset()) -> Graph:
    """What a condition chooses that can hold only one value: is a score −∞, where nothing masks scores?

    torch's attention replaces the softmax of a row without a single finite score by zeros. Where no infinity comes
    in, there is no such row: SELECT(all(x == −∞), 0, softmax(x)) is softmax(x).
    """
    infinite = holding_infinity(graph)
    settled: dict[str, bool] = {}
    replaced: dict[str, str] = {}
    edit = Editor(graph)
    for node in graph.nodes:
        node = replace(node, inputs=tuple(replaced.get(name, name) for name in node.inputs))
        edit.nodes.append(node)
        value = _settled(node, graph, infinite, settled)
        if value is not None:
            settled[node.outputs[0]] = value
        elif node.op in ("SELECT", "SELECT_V2") and node.inputs[0] in settled:
            chosen = node.inputs[1 if settled[node.inputs[0]] else 2]
            result = node.outputs[0]
            if graph.tensors[chosen].shape == graph.tensors[result].shape and result not in graph.outputs:
                replaced[result] = chosen
    return without_orphans(edit.result(), graph) if replaced else graph


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
    return (
        value
        if operators.lookup(node.op).moves_data or node.op in ("REDUCE_ANY", "REDUCE_ALL", "BROADCAST_TO")
        else None
    )
