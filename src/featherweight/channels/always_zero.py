"""Channels that are zero for every input: removing them changes no output."""

from __future__ import annotations

from collections.abc import Mapping

from featherweight.channels.groups import Group, outputs_of, rows_of
from featherweight.channels.labels import Axes, Labeled
from featherweight.graph import Graph, Node
from featherweight.operators import lookup
from featherweight.operators.zeros import absorbing, keeps_zero


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
    if (absorbed := absorbing(node.op)) and len(inputs) == 2:
        return set[int]().union(*(inputs[position] for position in absorbed))
    use = next((use for use in labels.outputs if use[0] == index), None)
    if use is not None:
        return _rows_made(graph, labels, node, use, inputs)
    if not keeps_zero(node.op):
        return set()
    carried = [_on(_axes(labels, index, position, name)) for position, name in enumerate(node.inputs)]
    alone = [graph.tensors[name] for on, name in zip(carried, node.inputs, strict=True) if not on and name]
    is_joined = lookup(node.op).axes != "concatenation"  # which puts what has no channels beside those that have
    if is_joined and any(t.is_float and (t.array is None or t.array.any()) for t in alone):
        return set()
    lost = [on - zero for on, zero in zip(carried, inputs, strict=True)]
    return set[int]().union(*inputs).difference(*lost)


def _rows_made(graph: Graph, labels: Labeled, node: Node, use: tuple[int, int], inputs: list[set[int]]) -> set[int]:
    """Returns the channels that are 0 in what a node makes with a weight."""
    op = lookup(node.op)
    if op.weight is None:
        return set()
    rows = _zero_rows(graph, labels, use)
    if op.axes != "depthwise":
        return rows
    return rows | (inputs[0] if (bias := _bias(node)) is None else inputs[0] & inputs[bias])


def _bias(node: Node) -> int | None:
    """Returns the position of a node's bias, None where it has none."""
    position = lookup(node.op).bias
    return position if position is not None and position < len(node.inputs) and node.inputs[position] else None


def _axes(labels: Labeled, index: int, position: int, name: str) -> Axes:
    return labels.constants.get((index, position)) or labels.tensors.get(name, ())


def _zero_rows(graph: Graph, labels: Labeled, use: tuple[int, int]) -> set[int]:
    """Returns the channels whose rows and bias are 0 in a weight."""
    node, outputs = graph.nodes[use[0]], outputs_of(labels, use)
    alive = (rows_of(graph, labels, use) != 0).any(axis=1)
    if (bias := _bias(node)) is not None:
        array = graph.tensors[node.inputs[bias]].array
        alive |= True if array is None else array != 0
    return set(outputs.tolist()) - set(outputs[alive].tolist()) - {0}


def _summed(labels: Labeled, node: Node, index: int, inputs: list[set[int]]) -> set[int]:
    """Returns the channels that a node sums over though they are not 0."""
    op = lookup(node.op)
    if op.axes == "product":
        depth = labels.tensors.get(node.inputs[0], ())[-2 if node.attrs.get("adj_x") else -1 :][:1]
        return _on(depth) - inputs[0] - inputs[1]
    if op.axes not in ("convolution", "depthwise", "dense"):
        return set()
    outputs = next((axis for use, axis in labels.outputs.items() if use[0] == index), 0)
    weight = _axes(labels, index, 1, node.inputs[1])
    read = _on(tuple(axis for number, axis in enumerate(weight) if number != outputs))
    return read - inputs[op.activation]
