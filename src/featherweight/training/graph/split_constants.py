"""Rewrites a graph so that everything that can be trained on its own is a constant of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featherweight.graph import Graph, Model, Node, consumers, fresh_name
from featherweight.graph.editor import Editor
from featherweight.operators import lookup
from featherweight.training.graph.source_layers import layer_of, plain_name
from featherweight.training.graph.weights import is_uniform, uses

# Kinds of weights with integer kernels whose zero bias a converter drops.
_BIASED = ("conv", "depthwise", "dense")


def split_constants(model: Model, callers: Sequence[str]) -> Model:
    """Returns the same function with one constant for each thing that can be trained on its own.

    Zero biases that converters drop come back, except where an addition of a constant follows. Constants of equal
    elements (zeros, ones) that several nodes share only because the converter merged equal values become one for each
    node; all others that nodes share stay shared.

    Args:
        model: a float graph.
        callers: for each of its graphs, the layer that calls it (`source_layers.callers`).
    """
    taken = set(model.tensors)
    graphs = [_with_biases(graph, taken, caller) for graph, caller in zip(model.graphs, callers, strict=True)]
    return _untied(replace(model, graphs=tuple(graphs)), callers, taken)


def _with_biases(graph: Graph, taken: set[str], caller: str) -> Graph:
    edit, readers = Editor(graph, taken), consumers(graph)
    biases: dict[str, str] = {}
    for node in graph.nodes:
        if _lacks_bias(graph, node) and not _is_biased_later(graph, readers, node):
            op = lookup(node.op)
            weight = graph.tensors[op.input_of(node, op.weight)]
            if weight.name not in biases:
                path = layer_of(graph, node, (weight.name,), caller) or plain_name(node.name)
                zeros = np.zeros(weight.shape[op.axis or 0], np.float32)
                biases[weight.name] = edit.constant(f"{path}/bias", zeros)
            node = replace(node, inputs=(*node.inputs[: op.bias], biases[weight.name]))
        edit.nodes.append(node)
    return edit.result()


def _lacks_bias(graph: Graph, node: Node) -> bool:
    """True for a node with a constant float kernel that could have a bias and has none."""
    op = lookup(node.op)
    if op.weight_kind not in _BIASED or not op.has_integer_weights or "" in node.inputs[: op.bias]:
        return False
    weight = graph.tensors[op.input_of(node, op.weight)]
    return not op.input_of(node, op.bias) and weight.is_constant and weight.is_float


def _is_biased_later(graph: Graph, readers: dict[str, tuple[Node, ...]], node: Node) -> bool:
    """True where the sums go nowhere but into additions, one of which adds a constant (recurrent cells)."""
    while str(node.attrs.get("fused_activation_function", "NONE")) == "NONE":
        followers = readers.get(node.outputs[0], ())
        if len(followers) != 1 or followers[0].op != "ADD" or node.outputs[0] in graph.outputs:
            return False
        node = followers[0]
        operands = [graph.tensors[name] for name in node.inputs]
        if any(tensor.is_constant and tensor.elements > 1 for tensor in operands):
            return True
    return False


def _untied(model: Model, callers: Sequence[str], taken: set[str]) -> Model:
    """Gives every node its own copy of a constant of equal elements that is trained; nodes of one kernel share one."""
    copies: dict[str, dict[str, str]] = {}
    renamed: dict[tuple[str, int], str] = {}
    for use in uses(model, callers):
        if use.role is None or not is_uniform(use.tensor):
            continue
        owner = use.node.inputs[1] if use.role == "bias" else use.node.name
        found = copies.setdefault(use.tensor.name, {})
        if owner not in found:
            name = fresh_name(f"{use.group}/{use.role}", taken) if found else use.tensor.name
            taken.add(name)
            found[owner] = name
        renamed[use.node.name, use.position] = found[owner]
    return replace(model, graphs=tuple(_renamed(graph, renamed) for graph in model.graphs))


def _renamed(graph: Graph, renamed: dict[tuple[str, int], str]) -> Graph:
    edit = Editor(graph)
    for node in graph.nodes:
        names = tuple(renamed.get((node.name, position), name) for position, name in enumerate(node.inputs))
        for old, new in zip(node.inputs, names, strict=True):
            if new != old:
                edit.tensors[new] = replace(graph.tensors[old], name=new, file_name=None)
        edit.nodes.append(replace(node, inputs=names))
    return edit.result()
