"""Memory that TFLite Micro's kernels take beside their tensors while they run, in bytes, as they ask for it.

Sources: Prepare of tflite-micro's reference kernels (tensorflow/lite/micro/kernels: conv_common.cc, fully_connected.cc,
reduce_common.cc, transpose_conv.cc, mirror_pad.cc, add_n.cc, unidirectional_sequence_lstm.cc); a pointer has the
64 bits of a host. Optimized kernels take other amounts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from featherweight.graph import Graph, Node, Tensor

Scratch = Callable[[Node, Graph], tuple[int, ...]]
_INT_BYTES, _POINTER_BYTES = 4, 8
_ACCUMULATOR_BYTES = {"int8": 4, "int16": 8}


def nothing(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns nothing."""
    return ()


def for_narrow_weights(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns a byte for each weight of int4, which is unpacked."""
    weight = graph.tensors[node.inputs[1]]
    return (_elements(weight),) if weight.dtype == "int4" else ()


def for_axes(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns places of a reduction: in the input, and its axes."""
    x, axes = graph.tensors[node.inputs[0]], graph.tensors[node.inputs[1]]
    return _INT_BYTES * len(x.shape), _INT_BYTES * _elements(axes)


def for_sums(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns a sum for each result of integers, and the places of a reduction."""
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    sums = (_INT_BYTES * _elements(y),) if x.dtype in _ACCUMULATOR_BYTES else ()
    return (*sums, *for_axes(node, graph))


def for_transposed(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns an accumulator for each result of integers."""
    each = _ACCUMULATOR_BYTES.get(graph.tensors[node.inputs[2]].dtype, 0)
    return (each * _elements(graph.tensors[node.outputs[0]]),) if each else ()


def for_mirror(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns sizes of the axes, of output and input."""
    sizes = _INT_BYTES * len(graph.tensors[node.inputs[0]].shape)
    return sizes, sizes


def for_operands(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns a pointer to each operand."""
    return (_POINTER_BYTES * len(node.inputs),)


def for_gates(node: Node, graph: Graph) -> tuple[int, ...]:
    """Returns four gates of an LSTM, of the cell state's type."""
    state = graph.tensors[node.inputs[19]]
    each = {"int16": 2}.get(state.dtype, _INT_BYTES)
    return (each * _elements(state),) * 4


def _elements(tensor: Tensor) -> int:
    return math.prod(max(size, 1) for size in tensor.shape)
