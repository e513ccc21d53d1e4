"""How far an optimizer's step moves each weight and bias: in units of what they are compared with where they act.

Folding batch norms into kernels leaves channels whose weights differ by any factor, and biases that reach tens, so that
no learning rate serves all of them. Here a weight counts in deviations of its channel, and a bias in deviations of its
channel's sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from featherweight.graph import Node, Tensor
from featherweight.graph.numerics import integer_range
from featherweight.operators import lookup
from featherweight.operators.record import Op
from featherweight.training.graph.exposed import Exposed

# Channels with weights smaller than this part of the largest are dead; as small steps suit all of them.
_DEAD = 2.0**-40


def units_of(model: Any) -> dict[int, np.ndarray]:
    """Returns variable (by identity) → its units, of the shape of the variable with 1 for axes that share one.

    Args:
        model: a `QuantizedModel`, of whose weights of the moment they are taken.
    """
    exposed: Exposed = model.exposed
    values, variables = model.current_values(), model.variables_by_tensor
    steps = {node.name: node for node in model.integer.main.nodes}
    found: dict[int, np.ndarray] = {}
    for graph in exposed.model.graphs:
        for node in graph.nodes:
            op = lookup(node.op)
            if op.weight is None or op.axis is None:
                continue
            weight, bias = (_tensor(graph, node, position) for position in (op.weight, op.bias))
            if weight is None or weight.array is None:
                continue
            value = values.get(weight.name, weight.array).reshape(weight.shape)
            deviations = _deviations(value, op.axis)
            if weight.name in variables:
                variable = variables[weight.name]
                shape = [-1 if axis == op.axis else 1 for axis in range(len(weight.shape))]
                if tuple(variable.shape) == weight.shape:
                    found.setdefault(id(variable), deviations.reshape(shape))
            if bias is not None and bias.name in variables:
                fan_in = value.size / deviations.size
                sums = deviations * math.sqrt(fan_in) * _magnitude(model.integer.main.tensors, steps.get(node.name), op)
                found.setdefault(id(variables[bias.name]), sums.reshape(bias.shape))
    return found


def _tensor(graph: Any, node: Node, position: int | None) -> Tensor | None:
    name = "" if position is None or position >= len(node.inputs) else node.inputs[position]
    return graph.tensors[name] if name else None


def _deviations(weight: np.ndarray, axis: int) -> np.ndarray:
    """Returns the root mean square of each channel's weights that are not 0; of none, that of the tensor."""
    others = tuple(at for at in range(weight.ndim) if at != axis)
    squares = np.square(weight, dtype=np.float64)
    counts = np.maximum((weight != 0).sum(others), 1)
    found = np.sqrt(squares.sum(others) / counts)
    largest = float(found.max(initial=0.0))
    if not 0 < largest < math.inf:
        return np.full(found.shape, 1.0)
    return np.where(np.isfinite(found), np.maximum(found, largest * _DEAD), largest)


def _magnitude(tensors: Mapping[str, Tensor], node: Node | None, op: Op) -> float:
    """Returns about how large an operator's inputs are: an eighth of their range, 1 where integers do not tell it."""
    name = "" if node is None or op.activation >= len(node.inputs) else node.inputs[op.activation]
    tensor = tensors.get(name)
    if tensor is None or tensor.is_constant or tensor.quant is None or len(tensor.quant.scale) != 1:
        return 1.0
    qmin, qmax = integer_range(tensor.dtype)
    return float(tensor.quant.scale[0]) * (qmax - qmin) / 8
