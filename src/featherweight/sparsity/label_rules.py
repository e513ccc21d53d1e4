"""How channels go through operators: one rule for each, from the labels of its inputs to those of its outputs.

A rule returns the labels of each output. An operator without a rule keeps all channels that it reads, and its outputs
have none that could be removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.sparsity.labels import Axes, Labeled, Labeling, unlabeled

Rule = Callable[[Labeling, Node], tuple[Axes, ...]]
_RULES: dict[str, Rule] = {}

UNARY = (
    "ABS", "CAST", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGICAL_NOT",
    "LOGISTIC", "NEG", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIGN", "SIN", "SQRT",
    "SQUARE", "TANH",
)  # fmt: skip
BINARY = (
    "ADD", "ADD_N", "DIV", "EQUAL", "FLOOR_DIV", "FLOOR_MOD", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL",
    "LOGICAL_AND", "LOGICAL_OR", "MAXIMUM", "MINIMUM", "MUL", "NOT_EQUAL", "POW", "PRELU", "SELECT_V2",
    "SQUARED_DIFFERENCE", "SUB",
)  # fmt: skip


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Attaches a rule to operators."""

    def attach(function: Rule) -> Rule:
        for op in ops:
            if op in _RULES:
                raise ValueError(f"operator {op} has two rules")
            _RULES[op] = function
        return function

    return attach


def label(graph: Graph) -> Labeled:
    """Returns the labels of all channels of a graph."""
    labels = Labeling(graph)
    for name in graph.inputs:
        labels.tensors[name] = unlabeled(graph.tensors[name].shape)
    for index, node in enumerate(graph.nodes):
        labels.index = index
        outputs = _RULES.get(node.op, keep_all)(labels, node)
        for name, axes in zip(node.outputs, outputs, strict=True):
            if name:
                labels.tensors[name] = axes
    for name in graph.outputs:
        for axis in labels.tensors.get(name, ()):
            labels.fix(axis, f"they are features of the model's output '{name}'")
    return labels.finished()


def why(node: Node, what: str) -> str:
    """Returns the reason that an operator gives for keeping channels."""
    return f"{node.op} '{node.name}' {what}"


def keep_all(labels: Labeling, node: Node, what: str = "reads them all") -> tuple[Axes, ...]:
    """Fixes all channels of the inputs; the outputs have no labels."""
    for position, name in enumerate(node.inputs):
        if name:
            for axis in labels.of(node, position):
                labels.fix(axis, why(node, what))
    return tuple(unlabeled(labels.graph.tensors[name].shape if name else ()) for name in node.outputs)


def output_shape(labels: Labeling, node: Node) -> tuple[int, ...]:
    """Returns the shape of a node's first output."""
    return labels.graph.tensors[node.outputs[0]].shape


def integers(labels: Labeling, node: Node, position: int) -> list[int] | None:
    """Returns the values of a constant input, None where it is absent or computed."""
    tensor = labels.tensor(node, position)
    array = None if tensor is None else tensor.array
    return None if array is None else [int(value) for value in array.ravel()]


def is_constant(labels: Labeling, node: Node, position: int) -> bool:
    """True where an input is there and constant."""
    tensor = labels.tensor(node, position)
    return tensor is not None and tensor.is_constant


def label_bias(labels: Labeling, node: Node, position: int, channels: np.ndarray) -> bool:
    """Labels a bias as the outputs it is added to; False where it is computed."""
    if labels.tensor(node, position) is None:
        return True
    if not is_constant(labels, node, position):
        return False
    labels.label_constant(position, (channels,))
    return True


# ---------------------------------------------------------------------------------------------- products with weights


# Operator → positions of activation, weight and bias; the weight's axes of outputs and inputs.
_CONVOLUTIONS = {"CONV_2D": (0, 1, 2, 0, 3), "CONV_3D": (0, 1, 2, 4, 3), "TRANSPOSE_CONV": (2, 1, 3, 0, 3)}


@rule(*_CONVOLUTIONS)
def _convolution(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """New channels; those of the input are the weight's columns."""
    activation, weight, bias, outputs, inputs = _CONVOLUTIONS[node.op]
    x = labels.of(node, activation)
    kernel = labels.tensor(node, weight)
    if kernel is None or not kernel.is_constant:
        return keep_all(labels, node, "computes its weight")
    if kernel.shape[inputs] != x[-1].size:
        return keep_all(labels, node, "has groups")
    channels = labels.kernel(node, weight, outputs)
    labels.outputs[labels.index, weight] = outputs
    labels.kernel(node, weight, inputs, x[-1])
    if not label_bias(labels, node, bias, channels):
        channels = labels.fix(channels, why(node, "computes its bias"))
    return (_positions_fixed(labels, node, x, channels),)


def _positions_fixed(labels: Labeling, node: Node, x: Axes, channels: np.ndarray) -> Axes:
    """Returns the batch's labels, 0 for positions, and those of the channels."""
    for axis in x[1:-1]:
        labels.fix(axis, why(node, "slides over them"))
    return (x[0], *unlabeled(output_shape(labels, node)[1:-1]), channels)


@rule("DEPTHWISE_CONV_2D")
def _depthwise(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """Output ``c * multiplier + j`` is channel c of the input; of one input channel, all outputs are new."""
    x, kernel = labels.of(node, 0), labels.tensor(node, 1)
    if kernel is None or not kernel.is_constant:
        return keep_all(labels, node, "computes its weight")
    inputs = x[-1].size
    channels = None if inputs == 1 else np.repeat(x[-1], kernel.shape[3] // inputs)
    channels = labels.kernel(node, 1, 3, channels)
    labels.outputs[labels.index, 1] = 3
    if not label_bias(labels, node, 2, channels):
        labels.fix(channels, why(node, "computes its bias"))
    return (_positions_fixed(labels, node, x, channels),)


@rule("FULLY_CONNECTED")
def _fully_connected(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """New channels; the features of the input, flattened where the weight is longer, are the weight's columns."""
    x, weight = labels.of(node, 0), labels.tensor(node, 1)
    assert weight is not None
    depth = weight.shape[1]
    if x[-1].size != depth:
        x = reshaped(labels, node, x, (math.prod(axis.size for axis in x) // depth, depth))
    if weight.is_constant:
        channels = labels.kernel(node, 1, 0)
        labels.outputs[labels.index, 1] = 0
        labels.kernel(node, 1, 1, x[-1])
    else:
        channels, columns = labels.of(node, 1)
        labels.join(columns, x[-1], why(node, "multiplies them with what is no channel"))
    if not label_bias(labels, node, 2, channels):
        labels.fix(channels, why(node, "computes its bias"))
    return ((*reshaped(labels, node, x[:-1], output_shape(labels, node)[:-1]), channels),)


@rule("BATCH_MATMUL")
def _batch_matmul(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """x (…, rows, depth) times y (…, depth, columns): depth is joined, and so are the batches, heads for example."""
    if is_constant(labels, node, 0) or is_constant(labels, node, 1):
        return keep_all(labels, node, "multiplies by a constant")
    x, y = labels.of(node, 0), labels.of(node, 1)
    rows, depth = (x[-1], x[-2]) if node.attrs.get("adj_x") else (x[-2], x[-1])
    other, columns = (y[-1], y[-2]) if node.attrs.get("adj_y") else (y[-2], y[-1])
    labels.join(depth, other, why(node, "multiplies them with what is no channel"))
    return ((*joined(labels, node, [x[:-2], y[:-2]], output_shape(labels, node)[:-2]), rows, columns),)


@rule("GATHER")
def _gather(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """The features of a table are channels; rows that are looked up are not."""
    axis, table = int(node.attrs.get("axis", 0)), labels.tensor(node, 0)
    if table is None or not table.is_constant or not table.is_float or axis or node.attrs.get("batch_dims"):
        return keep_all(labels, node)
    if len(table.shape) != 2:
        return keep_all(labels, node)
    labels.kernel(node, 0, 0, np.zeros(table.shape[0], np.int64))
    channels = labels.kernel(node, 0, 1)
    labels.outputs[labels.index, 0] = 1
    return ((*unlabeled(output_shape(labels, node)[:-1]), channels),)


# ------------------------------------------------------------------------------------------------------- elementwise


@rule(*UNARY)
def _unary(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    return (labels.of(node, 0),)


@rule(*BINARY)
def _binary(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """Inputs that are computed are joined, index by index; constants are cut as the result is."""
    shape = output_shape(labels, node)
    computed = [i for i, name in enumerate(node.inputs) if name and not is_constant(labels, node, i)]
    axes = joined(labels, node, [labels.of(node, position) for position in computed], shape)
    for position in range(len(node.inputs)):
        tensor = labels.tensor(node, position)
        if tensor is not None and tensor.is_constant:
            behind = axes[len(axes) - len(tensor.shape) :]
            empty = unlabeled(tensor.shape)
            labels.label_constant(
                position, tuple(a if a.size == e.size else e for a, e in zip(behind, empty, strict=True))
            )
    return (axes,)


def joined(labels: Labeling, node: Node, inputs: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """Returns the labels of inputs that are broadcast to one shape, joined."""
    result: list[np.ndarray] = []
    for axis, size in enumerate(shape):
        behind = axis - len(shape)
        found = [labels_of[behind] for labels_of in inputs if -behind <= len(labels_of)]
        found = [one for one in found if one.size == size]
        common = found[0] if found else np.zeros(size, np.int64)
        for other in found[1:]:
            common = labels.join(common, other, why(node, "joins them with what is no channel"))
        result.append(common)
    return tuple(result)


# --------------------------------------------------------------------------------------------- windows and reductions


@rule("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
@rule("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
def _window(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    x = labels.of(node, 0)
    batch = unlabeled(output_shape(labels, node)[:1])
    return ((*batch, *_positions_fixed(labels, node, x, x[-1])[1:]),)


@rule("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
def _reduction(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    x, axes = labels.of(node, 0), integers(labels, node, 1)
    if axes is None:
        return keep_all(labels, node)
    reduced = {axis % len(x) for axis in axes}
    for axis in reduced:
        labels.fix(x[axis], why(node, "reduces them to one value"))
    if node.attrs.get("keep_dims"):
        return (tuple(np.zeros(1, np.int64) if axis in reduced else one for axis, one in enumerate(x)),)
    return (tuple(one for axis, one in enumerate(x) if axis not in reduced),)


@rule("SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION")
def _normalization(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    x = labels.of(node, 0)
    return ((*x[:-1], labels.fix(x[-1], why(node, "normalizes over them"))),)


# --------------------------------------------------------------------------------------------------------- reshaping


@rule("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def _reshape(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    return (reshaped(labels, node, labels.of(node, 0), output_shape(labels, node)),)


def reshaped(labels: Labeling, node: Node, x: Axes, shape: Sequence[int]) -> Axes:
    """Returns labels after a reshape.

    Axes that are merged, such as positions and channels, repeat the labels of the one that has channels. An axis that
    is split in two keeps channels on the first, heads, for example, whose features go together; one that becomes all
    axes behind the batch, positions and channels, on the last.
    """
    sizes = [axis.size for axis in x]
    result = [np.zeros(size, np.int64) for size in shape]
    for sources, targets in _segments(sizes, shape):
        sources, targets = [a for a in sources if sizes[a] > 1], [a for a in targets if shape[a] > 1]
        labeled = [axis for axis in sources if x[axis].any()]
        if not labeled:
            continue
        if len(sources) == 1 and len(targets) == 1:
            result[targets[0]] = x[sources[0]]
        elif len(targets) == 1 and len(labeled) == 1:
            inner = [1] * len(sources)
            inner[sources.index(labeled[0])] = -1
            grid = x[labeled[0]].reshape(inner)
            result[targets[0]] = np.broadcast_to(grid, [sizes[a] for a in sources]).ravel()
        elif len(sources) == 1:
            kept = targets[-1] if len(targets) > 2 else targets[0]
            grid = np.moveaxis(x[sources[0]].reshape([shape[a] for a in targets]), targets.index(kept), 0)
            blocks = grid.reshape(shape[kept], -1)
            told = why(node, "splits them unevenly")
            result[kept] = np.array([labels.unite_all(block, told) for block in blocks], np.int64)
        else:
            for axis in labeled:
                labels.fix(x[axis], why(node, "mixes them with other axes"))
    return tuple(result)


def _segments(sizes: Sequence[int], shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Returns which axes become which: the finest split of both into runs of equal products."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(sizes) or j < len(shape):
        sources, targets, left, right = [], [], 1, 1
        while True:
            if left <= right and i < len(sizes) and (left < right or not sources):
                left, i = left * sizes[i], i + 1
                sources.append(i - 1)
            elif j < len(shape) and (right < left or not targets):
                right, j = right * shape[j], j + 1
                targets.append(j - 1)
            else:
                break
        found.append((sources, targets))
    return found


@rule("TRANSPOSE")
def _transpose(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    order = integers(labels, node, 1)
    return keep_all(labels, node) if order is None else (tuple(labels.of(node, 0)[axis] for axis in order),)


@rule("PAD", "PADV2")
def _pad(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """Channels that are padded are new, and can be removed: less is padded then."""
    x, pads = labels.of(node, 0), integers(labels, node, 1)
    if pads is None:
        return keep_all(labels, node)
    result: list[np.ndarray] = []
    for axis, (before, after) in zip(x, zip(pads[::2], pads[1::2], strict=True), strict=True):
        if axis.any():
            parts = [labels.fresh(count) for count in (before, after)]
            result.append(np.concatenate([parts[0], axis, parts[1]]))
        else:
            result.append(np.zeros(axis.size + before + after, np.int64))
    return (tuple(result),)


@rule("CONCATENATION")
def _concatenation(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    shape = output_shape(labels, node)
    along = int(node.attrs.get("axis", 0)) % len(shape)
    inputs = [labels.of(node, position) for position in range(len(node.inputs))]
    constants = [position for position in range(len(inputs)) if is_constant(labels, node, position)]
    empty = np.zeros(0, np.int64)
    across = [(*x[:along], empty, *x[along + 1 :]) for i, x in enumerate(inputs) if i not in constants]
    result = list(joined(labels, node, across, shape))
    for position in constants:
        labels.label_constant(position, (*result[:along], inputs[position][along], *result[along + 1 :]))
    result[along] = np.concatenate([x[along] for x in inputs])
    return (tuple(result),)


@rule("SLICE")
def _slice(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    x, begins, shape = labels.of(node, 0), integers(labels, node, 1), output_shape(labels, node)
    if begins is None or integers(labels, node, 2) is None:
        return keep_all(labels, node)
    return (tuple(axis[begin : begin + size] for axis, begin, size in zip(x, begins, shape, strict=True)),)


@rule("SPLIT")
def _split(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """Channel c of each part is one with channel c of the others: parts stay equally wide."""
    x, along = labels.of(node, 1), integers(labels, node, 0)
    if along is None:
        return keep_all(labels, node)
    parts = np.split(x[along[0]], len(node.outputs))
    common = parts[0]
    for part in parts[1:]:
        common = labels.join(common, part, why(node, "splits them unevenly"))
    axis = along[0] % len(x)
    return tuple((*x[:axis], part, *x[axis + 1 :]) for part in parts)


@rule("SPACE_TO_DEPTH")
def _space_to_depth(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """Output ``(dy * block + dx) * channels + c`` is channel c."""
    x, block = labels.of(node, 0), int(node.attrs["block_size"])
    return (_positions_fixed(labels, node, x, np.tile(x[-1], block * block)),)


@rule("DEPTH_TO_SPACE")
def _depth_to_space(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """Inputs ``(dy * block + dx) * channels + c`` are one channel for all dy and dx."""
    x, block = labels.of(node, 0), int(node.attrs["block_size"])
    parts = x[-1].reshape(block * block, -1)
    for part in parts[1:]:
        labels.join(parts[0], part, why(node, "splits them unevenly"))
    return (_positions_fixed(labels, node, x, parts[0]),)
