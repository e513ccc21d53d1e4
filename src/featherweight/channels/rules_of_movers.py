"""How channels go through operators that move values: reshapes, padding, concatenation, slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featherweight.channels.labels import Axes, Labeling
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
from featherweight.graph import Node


@rule("reshape", "squeeze", "expand")
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


@rule("transpose")
def _transpose(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    order = integers(labels, node, 1)
    return keep_all(labels, node) if order is None else (tuple(labels.of(node, 0)[axis] for axis in order),)


@rule("pad")
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


@rule("concatenation")
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


@rule("slice")
def _slice(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    x, begins, shape = labels.of(node, 0), integers(labels, node, 1), output_shape(labels, node)
    if begins is None or integers(labels, node, 2) is None:
        return keep_all(labels, node)
    return (tuple(axis[begin : begin + size] for axis, begin, size in zip(x, begins, shape, strict=True)),)


@rule("split")
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


@rule("space_to_depth")
def _space_to_depth(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """Output ``(dy * block + dx) * channels + c`` is channel c."""
    x, block = labels.of(node, 0), int(node.attrs["block_size"])
    return (positions_fixed(labels, node, x, np.tile(x[-1], block * block)),)


@rule("depth_to_space")
def _depth_to_space(labels: Labeling, node: Node) -> tuple[Axes, ...]:
    """Inputs ``(dy * block + dx) * channels + c`` are one channel for all dy and dx."""
    x, block = labels.of(node, 0), int(node.attrs["block_size"])
    parts = x[-1].reshape(block * block, -1)
    for part in parts[1:]:
        labels.join(parts[0], part, why(node, "splits them unevenly"))
    return (positions_fixed(labels, node, x, parts[0]),)
