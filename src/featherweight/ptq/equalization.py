"""Cross-layer equalization: channels of neighbouring weights get like ranges, and the function stays the same.

Where one scale serves a whole tensor, a channel with small weights gets few integers. Between two layers with a
positively homogeneous function, channel i of the first may be divided by s_i and that of the second multiplied by it;
s_i = sqrt(r1_i / r2_i) gives both the range sqrt(r1_i · r2_i) (Nagel et al., 1906.04721, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import FormatError
from featherweight.graph import Graph, Model, Node, consumers, replace_graph
from featherweight.graph.editor import Editor, with_values
from featherweight.operators import lookup

_KINDS = ("conv", "depthwise", "dense", "transposed")
_HOMOGENEOUS = ("NONE", "RELU")
_PASSES = 20
_SMALLEST_CHANGE = 1e-3


@dataclass(frozen=True)
class EqualizedTensor:
    """What became of the channels of one tensor between weights.

    Attributes:
        name: the tensor's.
        producer: the operator that makes it.
        readers: the operators that multiply by its channels.
        spread: the largest range among the producer's channels over the smallest, before and after; dead ones aside.
        reason: why it was left alone; empty where it was not.
    """

    name: str
    producer: str
    readers: tuple[str, ...] = ()
    spread: tuple[float, float] = (1.0, 1.0)
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Equalized:
    """The equalized model, and what was done to each tensor between weights."""

    model: Model
    tensors: tuple[EqualizedTensor, ...]

    def __repr__(self) -> str:
        done = sum(not row.reason for row in self.tensors)
        return f"Equalized model: {done} of {len(self.tensors)} tensors between weights\n{self.model!r}"


@dataclass(frozen=True, eq=False)
class _Pair:
    """A weighted operator, and all that read its channels."""

    tensor: str
    producer: Node
    readers: tuple[Node, ...]


class _LeftAloneError(Exception):
    """Why a tensor's channels can't be scaled."""


def equalize_graph(model: Model) -> Equalized:
    """Equalizes a lowered float graph; loops and branches stay as they are.

    Outputs change by rounding of float32 only.

    Raises:
        FormatError: if the model is quantized.
    """
    graph = model.main
    if any(tensor.quant is not None for tensor in graph.tensors.values()):
        raise FormatError("equalize takes a float model; this one is quantized. Equalize before quantizing.")
    read, pairs, rows = consumers(graph), list[_Pair](), list[EqualizedTensor]()
    for node in graph.nodes:
        if not _is_weighted(node):
            continue
        try:
            _check_producer(graph, node, read)
            readers = tuple(dict.fromkeys(_readers(graph, node.outputs[0], read)))
            pairs.append(_Pair(node.outputs[0], node, readers))
        except _LeftAloneError as why:
            rows.append(EqualizedTensor(node.outputs[0], node.name, reason=str(why)))
    values = _values(graph, pairs)
    before = {pair.tensor: _spread(values, pair) for pair in pairs}
    for _ in range(_PASSES):
        if max((_equalize(values, pair) for pair in pairs), default=0.0) < _SMALLEST_CHANGE:
            break
    rows += [
        EqualizedTensor(
            pair.tensor,
            pair.producer.name,
            tuple(reader.name for reader in pair.readers),
            (before[pair.tensor], _spread(values, pair)),
        )
        for pair in pairs
    ]
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    return Equalized(_written(model, values), tuple(sorted(rows, key=lambda row: order[row.producer])))


def _is_weighted(node: Node) -> bool:
    op = lookup(node.op)
    return op.has_integer_weights and op.weight_kind in _KINDS


def _check_producer(graph: Graph, node: Node, read: Mapping[str, tuple[Node, ...]]) -> None:
    _check_weight(graph, node, read)
    activation = str(node.attrs.get("fused_activation_function", "NONE"))
    if activation not in _HOMOGENEOUS:
        raise _LeftAloneError(f"{node.op} '{node.name}' ends in {activation}, which has one bound for all channels")
    bias = _bias(node)
    if bias and not graph.tensors[bias].is_constant:
        raise _LeftAloneError(f"the bias of {node.op} '{node.name}' is computed")


def _check_weight(graph: Graph, node: Node, read: Mapping[str, tuple[Node, ...]]) -> None:
    name = _weight(node)
    if graph.tensors[name].array is None or not graph.tensors[name].is_float:
        raise _LeftAloneError(f"the weight of {node.op} '{node.name}' is no constant of floats")
    if len(read[name]) > 1:
        raise _LeftAloneError(f"the weight of {node.op} '{node.name}' serves {len(read[name])} operators")


def _readers(graph: Graph, name: str, read: Mapping[str, tuple[Node, ...]]) -> Iterator[Node]:
    """Yields the weighted operators that read a tensor's channels, through operators that commute with factors."""
    channels = graph.tensors[name].shape[-1]
    if name in graph.outputs:
        raise _LeftAloneError(f"'{name}' is an output of the model")
    for node in read.get(name, ()):
        op = lookup(node.op)
        if _is_weighted(node) and node.inputs[op.activation] == name:
            _check_weight(graph, node, read)
            if op.weight_kind == "conv" and graph.tensors[_weight(node)].shape[_axes(node)[1]] != channels:
                raise _LeftAloneError(f"{node.op} '{node.name}' reads it in groups")
            yield node
        elif _passes(graph, node):
            yield from _readers(graph, node.outputs[0], read)
        else:
            raise _LeftAloneError(f"{node.op} '{node.name}' reads it, which does not commute with factors for channels")


def _passes(graph: Graph, node: Node) -> bool:
    """True for operators after which the channels are still the last axis, or repeat along it."""
    op = lookup(node.op)
    if not op.is_homogeneous or str(node.attrs.get("fused_activation_function", "NONE")) not in _HOMOGENEOUS:
        return False
    before, after = (graph.tensors[name].shape for name in (node.inputs[0], node.outputs[0]))
    if op.is_reduction:
        axes = graph.tensors[node.inputs[1]].array
        return axes is not None and not {-1, len(before) - 1} & {int(axis) for axis in axes.ravel()}
    is_reshaped = math.prod(before) == math.prod(after)
    return bool(after) and (before[-1] == after[-1] or (is_reshaped and after[-1] % before[-1] == 0))


def _weight(node: Node) -> str:
    op = lookup(node.op)
    return op.input_of(node, op.weight)


def _bias(node: Node) -> str:
    op = lookup(node.op)
    return op.input_of(node, op.bias)


def _place(node: Node) -> tuple[str, int]:
    """Returns where the weight is: node and position."""
    return node.name, lookup(node.op).weight or 0


def _is_depthwise(node: Node) -> bool:
    return lookup(node.op).weight_kind == "depthwise"


def _axes(node: Node) -> tuple[int, int]:
    """Returns the weight's axes of output channels, and of those that it reads."""
    axes = lookup(node.op).weight_axes
    assert axes is not None
    return axes


def _values(graph: Graph, pairs: list[_Pair]) -> dict[tuple[str, int], np.ndarray]:
    """Returns (node, position) → weight or bias in float64, of all operators of pairs."""
    found: dict[tuple[str, int], np.ndarray] = {}
    for pair in pairs:
        for node in (pair.producer, *pair.readers):
            for position, name in enumerate(node.inputs):
                if name and name in (_weight(node), _bias(node)):
                    array = graph.tensors[name].array
                    found[node.name, position] = np.asarray(array, np.float64)
    return found


def _ranges(values: Mapping[tuple[str, int], np.ndarray], node: Node, axis: int) -> np.ndarray:
    weight = np.moveaxis(np.abs(values[_place(node)]), axis, -1)
    return weight.reshape(-1, weight.shape[-1]).max(axis=0)


def _output_ranges(values: Mapping[tuple[str, int], np.ndarray], pair: _Pair) -> np.ndarray:
    return _ranges(values, pair.producer, _axes(pair.producer)[0])


def _spread(values: Mapping[tuple[str, int], np.ndarray], pair: _Pair) -> float:
    ranges = _output_ranges(values, pair)
    alive = ranges[ranges > 0]
    return float(alive.max() / alive.min()) if alive.size else 1.0


def _equalize(values: dict[tuple[str, int], np.ndarray], pair: _Pair) -> float:
    """Divides the producer's channels and multiplies the readers'; returns the largest |log2| of a factor."""
    first = _output_ranges(values, pair)
    channels = len(first)
    second = np.zeros(channels)
    for reader in pair.readers:
        ranges = _ranges(values, reader, _axes(reader)[1])
        second = np.maximum(second, _by_channel(reader, ranges, channels).max(axis=0))
    alive = (first > 0) & (second > 0)
    factors = np.sqrt(np.divide(first, second, out=np.ones(channels), where=alive))
    _scale(values, pair.producer, _axes(pair.producer)[0], 1 / factors)
    bias = _bias(pair.producer)
    if bias:
        position = pair.producer.inputs.index(bias)
        values[pair.producer.name, position] = values[pair.producer.name, position] / factors
    for reader in pair.readers:
        _scale(values, reader, _axes(reader)[1], factors)
    return float(np.abs(np.log2(factors)).max())


def _by_channel(reader: Node, ranges: np.ndarray, channels: int) -> np.ndarray:
    """Returns ranges along a reader's axis as (how many belong to a channel, channels)."""
    # Of a depthwise convolution, a channel's outputs lie side by side.
    return ranges.reshape(channels, -1).T if _is_depthwise(reader) else ranges.reshape(-1, channels)


def _scale(values: dict[tuple[str, int], np.ndarray], node: Node, axis: int, factors: np.ndarray) -> None:
    weight = values[_place(node)]
    size, is_depthwise = weight.shape[axis], _is_depthwise(node)
    many = size // len(factors)
    spread = np.repeat(factors, many) if is_depthwise else np.tile(factors, many)
    values[_place(node)] = weight * spread.reshape([-1 if at == axis else 1 for at in range(weight.ndim)])


def _written(model: Model, values: Mapping[tuple[str, int], np.ndarray]) -> Model:
    """Returns the model with these constants; one that other operators read too is written under a name of its own."""
    read, edit = consumers(model.main), Editor(model.main, set(model.tensors))
    for node in model.main.nodes:
        inputs = list(node.inputs)
        for position, name in enumerate(inputs):
            if (node.name, position) in values:
                tensor = with_values(model.main.tensors[name], values[node.name, position])
                if len(read[name]) == 1:
                    edit.tensors[name] = tensor
                else:
                    inputs[position] = edit.add(replace(tensor, name=f"{node.name}/bias"))
        edit.nodes.append(replace(node, inputs=tuple(inputs)))
    return replace_graph(model, 0, edit.result())
