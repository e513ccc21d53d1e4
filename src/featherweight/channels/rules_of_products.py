"""How channels go through operators that compute: products with weights, elementwise operators, windows, reductions."""

from __future__ import annotations

import math

import numpy as np

from featherweight.channels.labels import Axes, Labeling, unlabeled
from featherweight.channels.rules import (
    integers,
    is_constant,
    joined,
    keep_all,
    output_shape,
    positions_fixed,
    rule,
    why,
)
from featherweight.channels.rules_of_movers import reshaped
from featherweight.graph import Node
from featherweight.operators import lookup


def label_bias(labels: Labeling, node: Node, position: int | None, channels: np.ndarray) -> bool:
    """Labels a bias as the outputs it is added to; False where it is computed."""
    if position is None or labels.tensor(node, position) is None:
        return True
    if not is_constant(labels, node, position):
        return False
    labels.label_constant(position, (channels,))
    return True


# ---------------------------------------------------------------------------------------------- products with weights


@rule("convolution")
def _convolution(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """New channels; those of the input are the weight's columns."""
    op = lookup(node.op)
    ((weight, bias, activation),) = op.weights
    assert op.weight_axes is not None
    outputs, inputs = op.weight_axes
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
    return (positions_fixed(labels, node, x, channels),)


@rule("depthwise")
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
    return (positions_fixed(labels, node, x, channels),)


@rule("dense")
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


@rule("product")
def _batch_matmul(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """x (…, rows, depth) times y (…, depth, columns): depth is joined, and so are the batches, heads for example."""
    if is_constant(labels, node, 0) or is_constant(labels, node, 1):
        return keep_all(labels, node, "multiplies by a constant")
    x, y = labels.of(node, 0), labels.of(node, 1)
    rows, depth = (x[-1], x[-2]) if node.attrs.get("adj_x") else (x[-2], x[-1])
    other, columns = (y[-1], y[-2]) if node.attrs.get("adj_y") else (y[-2], y[-1])
    labels.join(depth, other, why(node, "multiplies them with what is no channel"))
    return ((*joined(labels, node, [x[:-2], y[:-2]], output_shape(labels, node)[:-2]), rows, columns),)


@rule("gather")
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


@rule("same")
def _unary(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    return (labels.of(node, 0),)


@rule("joined")
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


# --------------------------------------------------------------------------------------------- windows and reductions


@rule("window", "blocks")
def _window(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    x = labels.of(node, 0)
    batch = unlabeled(output_shape(labels, node)[:1])
    return ((*batch, *positions_fixed(labels, node, x, x[-1])[1:]),)


@rule("reduction")
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


@rule("normalization")
def _normalization(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    x = labels.of(node, 0)
    return ((*x[:-1], labels.fix(x[-1], why(node, "normalizes over them"))),)
