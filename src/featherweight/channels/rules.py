"""What rules of how channels go through operators have in common, and the table of them.

A rule is one of a word of `operators.axes`, and returns the labels of each output. An operator that keeps all channels
that it reads has outputs with none that could be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from featherweight.channels.labels import Axes, Labeling, unlabeled
from featherweight.graph import Node
from featherweight.operators import AxesRule, lookup

Rule = Callable[[Labeling, Node], tuple[Axes, ...]]
RULES: dict[AxesRule, Rule] = {}


def rule(*words: AxesRule) -> Callable[[Rule], Rule]:
    """Attaches a rule to words of `operators.axes`."""

    def attach(function: Rule) -> Rule:
        for word in words:
            if word in RULES:
                raise ValueError(f"axes of '{word}' have two rules")
            RULES[word] = function
        return function

    return attach


def rule_of(op: str) -> Rule:
    """Returns the rule of an operator."""
    return RULES[lookup(op).axes]


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


_KEPT: tuple[AxesRule, ...] = ("", "kept", "decision", "lookup", "mirror", "pack", "recurrent", "selection", "shape")
rule(*_KEPT, "slices", "strided_slice", "unpack")(keep_all)


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


def positions_fixed(labels: Labeling, node: Node, x: Axes, channels: np.ndarray) -> Axes:
    """Returns the batch's labels, 0 for positions, and those of the channels."""
    for axis in x[1:-1]:
        labels.fix(axis, why(node, "slides over them"))
    return (x[0], *unlabeled(output_shape(labels, node)[1:-1]), channels)


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
