"""Channels that are zero for every input: removing them changes no output."""

from __future__ import annotations

from collections.abc import Mapping

from featherweight.channels.groups import Group, outputs_of, rows_of
from featherweight.channels.labels import Axes, Labeled
from featherweight.graph import Graph, Node

# Operators that make 0 of zeros only, channel by channel.
_KEEPS_ZERO = {
    "ABS", "CAST", "CEIL", "ELU", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "NEG", "RELU", "RELU6", "RELU_0_TO_1",
    "RELU_N1_TO_1", "ROUND", "SIGN", "SIN", "SQRT", "SQUARE", "TANH", "ADD", "ADD_N", "SUB", "MAXIMUM", "MINIMUM",
    "SQUARED_DIFFERENCE", "AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
    "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RESHAPE",
    "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "PAD", "CONCATENATION", "SLICE", "SPLIT", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
}  # fmt: skip
# Operators whose result is 0 where any input is.
_PRODUCTS = {"MUL", "PRELU"}
# Operator → positions of its activation and its bias.
_WEIGHTED = {"CONV_2D": (0, 2), "CONV_3D": (0, 2), "DEPTHWISE_CONV_2D": (0, 2), "FULLY_CONNECTED": (0, 2)}
_WEIGHTED["TRANSPOSE_CONV"] = (2, 3)


def zero_channels(graph: Graph, labels: Labeled, groups: list[Group]) -> set[int]:
    """Returns the labels of channels that can be removed without a change.

    Their rows and biases are 0 in the weights that make them, and they are still 0 where a weight sums over them: a
    sigmoid, or what was added, may have made another value of the 0.
    """
    zeros: dict[str, set[int]] = {}
    needed: set[int] = set()
    for index, node in enumerate(graph.nodes):
        inputs = [_zeros_of(graph, labels, zeros, index, position) for position in range(len(node.inputs))]
        made = _made(graph, labels, node, index, inputs)
        for name in node.outputs:
            zeros[name] = made & _on(labels.tensors.get(name, ()))
        needed |= _summed(labels, node, index, inputs)
    found: set[int] = set()
    for group in groups:
        if not group.reason:
            rows = set.intersection(*(_zero_rows(graph, labels, use) for use in group.kernels))
            found |= rows & set(group.labels) - needed
    return found


def _on(axes: Axes) -> set[int]:
    return {label for axis in axes for label in axis.tolist()} - {0}


def _zeros_of(graph: Graph, labels: Labeled, zeros: Mapping[str, set[int]], index: int, position: int) -> set[int]:
    """Returns the channels that are 0 in an input of a node."""
    name = graph.nodes[index].inputs[position]
    axes = labels.constants.get((index, position))
    array = graph.tensors[name].array if name else None
    if axes is None or array is None:
        return zeros.get(name, set())
    found = _on(axes)
    for axis, values in enumerate(axes):
        others = tuple(other for other in range(array.ndim) if other != axis)
        found -= set(values[(array != 0).any(axis=others)].tolist())
    return found


def _made(graph: Graph, labels: Labeled, node: Node, index: int, inputs: list[set[int]]) -> set[int]:
    """Returns the channels that are 0 in the outputs of a node, and maybe others."""
    if node.op in _PRODUCTS:
        return set[int]().union(*inputs)
    if node.op in _KEEPS_ZERO:
        carried = [_on(_axes(labels, index, position, name)) for position, name in enumerate(node.inputs)]
        lost = [on - zero for on, zero in zip(carried, inputs, strict=True)]
        return set[int]().union(*inputs).difference(*lost)
    use = next((use for use in labels.outputs if use[0] == index), None)
    if use is None or node.op not in _WEIGHTED:
        return set()
    rows = _zero_rows(graph, labels, use)
    if node.op != "DEPTHWISE_CONV_2D":
        return rows
    bias = _WEIGHTED[node.op][1]
    return rows | (inputs[0] if bias >= len(node.inputs) or not node.inputs[bias] else inputs[0] & inputs[bias])


def _axes(labels: Labeled, index: int, position: int, name: str) -> Axes:
    return labels.constants.get((index, position)) or labels.tensors.get(name, ())


def _zero_rows(graph: Graph, labels: Labeled, use: tuple[int, int]) -> set[int]:
    """Returns the channels whose rows and bias are 0 in a weight."""
    node, outputs = graph.nodes[use[0]], outputs_of(labels, use)
    alive = (rows_of(graph, labels, use) != 0).any(axis=1)
    bias = _WEIGHTED[node.op][1] if node.op in _WEIGHTED else len(node.inputs)
    if bias < len(node.inputs) and node.inputs[bias]:
        array = graph.tensors[node.inputs[bias]].array
        alive |= True if array is None else array != 0
    return set(outputs.tolist()) - set(outputs[alive].tolist()) - {0}


def _summed(labels: Labeled, node: Node, index: int, inputs: list[set[int]]) -> set[int]:
    """Returns the channels that a node sums over though they are not 0."""
    if node.op == "BATCH_MATMUL":
        depth = labels.tensors.get(node.inputs[0], ())[-2 if node.attrs.get("adj_x") else -1 :][:1]
        return _on(depth) - inputs[0] - inputs[1]
    if node.op not in _WEIGHTED:
        return set()
    outputs = next((axis for use, axis in labels.outputs.items() if use[0] == index), 0)
    weight = _axes(labels, index, 1, node.inputs[1])
    read = _on(tuple(axis for number, axis in enumerate(weight) if number != outputs))
    return read - inputs[_WEIGHTED[node.op][0]]
