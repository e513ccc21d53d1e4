"""A graph without some of its channels: every tensor is cut along every axis that has labels of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight import operators
from featherweight.channels.labels import Axes, Labeled, unlabeled
from featherweight.graph import Graph, Model, Node, Tensor, replace_graph
from featherweight.graph.editor import Editor, with_values, without_unused
from featherweight.operators import AxesRule, lookup


class _Cut(Editor):
    """A graph that is being cut; its tensors are what has been cut or is kept.

    Attributes:
        keep: label → False where it goes.
        made: (constant, its new value) → the name that the value has got.
    """

    def __init__(self, graph: Graph, labels: Labeled, keep: np.ndarray, taken: set[str]) -> None:
        super().__init__(graph, taken)
        self.tensors.clear()
        self.labels, self.keep = labels, keep
        self.made: dict[tuple[str, bytes], str] = {}

    def kept(self, axes: Axes) -> list[np.ndarray]:
        """Returns True, index by index and axis by axis, for what stays."""
        return [self.keep[axis] for axis in axes]

    def kept_of(self, name: str) -> list[np.ndarray]:
        """Returns the same for a computed tensor."""
        return self.kept(self.labels.tensors.get(name) or unlabeled(self.graph.tensors[name].shape))

    def is_cut(self, index: int, position: int) -> bool:
        """True where a constant loses something in this use."""
        axes = self.labels.constants.get((index, position), ())
        return not all(self.keep[axis].all() for axis in axes)

    def other_value(self, tensor: Tensor, array: np.ndarray) -> str:
        """Returns the name of a constant with another value; equal ones are made once."""
        key = (tensor.name, repr(array.shape).encode() + array.tobytes())
        if key not in self.made:
            signature = None if tensor.shape_signature is None else array.shape
            cut = replace(tensor, shape=array.shape, shape_signature=signature)
            self.made[key] = self.add(with_values(cut, array))
        return self.made[key]


def without_channels(model: Model, labels: Labeled, removed: Iterable[int]) -> Model:
    """Returns the model without the channels of these labels of its main graph.

    Constants are cut for each use by itself; one that is then used in several forms is stored in several.
    """
    graph = model.main
    uses = [
        (index, position, name)
        for index, node in enumerate(graph.nodes)
        for position, name in enumerate(node.inputs)
        if name and graph.tensors[name].is_constant
    ]
    keep = np.ones(labels.count, bool)
    keep[list(removed)] = False
    cut = _Cut(graph, labels, keep, set(model.tensors))
    whole = {name for name in graph.outputs if graph.tensors[name].is_constant}
    whole |= {name for index, position, name in uses if not cut.is_cut(index, position)}
    cut.taken -= {name for name, tensor in graph.tensors.items() if tensor.is_constant} - whole
    for name, tensor in graph.tensors.items():
        if not tensor.is_constant:
            cut.tensors[name] = _resized(tensor, cut.kept_of(name))
        elif name in whole:
            cut.tensors[name] = tensor
    inputs = [list(node.inputs) for node in graph.nodes]
    for index, position, name in uses:
        array = graph.tensors[name].array if cut.is_cut(index, position) else None
        if array is not None:
            array = array[np.ix_(*cut.kept(labels.constants[index, position]))]
            inputs[index][position] = cut.other_value(graph.tensors[name], array)
    cut.nodes = [_adapted(cut, node, tuple(names)) for node, names in zip(graph.nodes, inputs, strict=True)]
    return replace_graph(model, 0, without_unused(cut.result()))


def _resized(tensor: Tensor, kept: list[np.ndarray]) -> Tensor:
    shape = tuple(int(axis.sum()) for axis in kept)
    if shape == tensor.shape:
        return tensor
    signature = tensor.shape_signature
    if signature is not None:
        signature = tuple(size if was >= 0 else was for size, was in zip(shape, signature, strict=True))
    return replace(tensor, shape=shape, shape_signature=signature)


# ----------------------------------------------------------------------------- sizes that operators have as arguments


_Adapter = Callable[[_Cut, Node, tuple[str, ...]], Node]


def _adapted(cut: _Cut, node: Node, inputs: tuple[str, ...]) -> Node:
    """Returns a node with its new inputs, and with what it says of sizes brought up to date."""
    op = lookup(node.op)
    if op.shape_operand is not None:
        return _output_shape(cut, node, inputs, op.shape_operand)
    adapter = _ADAPTERS.get(op.axes)
    return replace(node, inputs=inputs) if adapter is None else adapter(cut, node, inputs)


def _with_values(cut: _Cut, node: Node, inputs: tuple[str, ...], values: dict[int, Any]) -> Node:
    """Returns the node with other values for some constant inputs, by position; the shape of each stays."""
    names = list(inputs)
    for position, value in values.items():
        tensor = cut.graph.tensors[node.inputs[position]]
        array = tensor.array
        if array is not None:
            new = np.asarray(value, array.dtype).reshape(array.shape)
            names[position] = node.inputs[position] if (new == array).all() else cut.other_value(tensor, new)
    return replace(node, inputs=tuple(names))


def _shapes(cut: _Cut, node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shape of a node's first output before and after."""
    return cut.graph.tensors[node.outputs[0]].shape, cut.tensors[node.outputs[0]].shape


def _updated(shape: Any, before: tuple[int, ...], after: tuple[int, ...]) -> list[int]:
    """Returns a shape that is an argument: sizes that were those of the output are so again; -1 stays."""
    given = [int(size) for size in np.asarray(shape).ravel()]
    return [new if size == old else size for size, old, new in zip(given, before, after, strict=True)]


def _output_shape(cut: _Cut, node: Node, inputs: tuple[str, ...], position: int) -> Node:
    """Updates the shape of the output that an operator takes as an input, or as an attribute."""
    before, after = _shapes(cut, node)
    attrs = dict(node.attrs)
    if attrs.get("new_shape") is not None and len(attrs["new_shape"]) == len(before):
        attrs["new_shape"] = type(attrs["new_shape"])(_updated(attrs["new_shape"], before, after))
    shape = cut.graph.tensors[node.inputs[position]].array if position < len(node.inputs) else None
    values = {} if shape is None else {position: _updated(shape, before, after)}
    return _with_values(cut, replace(node, attrs=attrs), inputs, values)


def _depthwise(cut: _Cut, node: Node, inputs: tuple[str, ...]) -> Node:
    multiplier = cut.tensors[node.outputs[0]].shape[-1] // cut.tensors[node.inputs[0]].shape[-1]
    return replace(node, inputs=inputs, attrs={**node.attrs, "depth_multiplier": multiplier})


def _pad(cut: _Cut, node: Node, inputs: tuple[str, ...]) -> Node:
    """Pads by as many indices as are left of those that were padded."""
    pads = cut.graph.tensors[node.inputs[1]].array
    if pads is None:
        return replace(node, inputs=inputs)
    kept = cut.kept(cut.labels.tensors[node.outputs[0]])
    rows = [
        [int(axis[:before].sum()), int(axis[axis.size - after :].sum())]
        for axis, (before, after) in zip(kept, pads.tolist(), strict=True)
    ]
    return _with_values(cut, node, inputs, {1: rows})


def _slice(cut: _Cut, node: Node, inputs: tuple[str, ...]) -> Node:
    """Begins behind as many indices as are left before."""
    begins, sizes = (cut.graph.tensors[node.inputs[position]].array for position in (1, 2))
    if begins is None or sizes is None:
        return replace(node, inputs=inputs)
    kept = cut.kept_of(node.inputs[0])
    before, after = _shapes(cut, node)
    begun = [int(axis[:begin].sum()) for axis, begin in zip(kept, begins.tolist(), strict=True)]
    return _with_values(cut, node, inputs, {1: begun, 2: _updated(sizes, before, after)})


_ADAPTERS: dict[AxesRule, _Adapter] = {"depthwise": _depthwise, "pad": _pad, "slice": _slice}


def total_macs(model: Model) -> int:
    """Returns the multiply-accumulates of one run of the main graph."""
    return sum(operators.macs(node, model.main) for node in model.main.nodes)


def constant_bytes(model: Model) -> int:
    """Returns the bytes of all constants, each buffer counted once."""
    data = [tensor.data for tensor in model.tensors.values() if tensor.data is not None]
    return sum(buffer.size for buffer in {id(buffer): buffer for buffer in data}.values())
