"""Limits of devices in what an operator reads and writes: types, constants, parameters, shapes of its operands."""

from __future__ import annotations

import math

import numpy as np

from featherweight import operators
from featherweight.graph import Graph, Node, Tensor
from featherweight.graph.numerics import QuantParams
from featherweight.operators.call import fused_activation
from featherweight.targets.constraints import ALLOWED, REFUSED, Limits, constraint_check


def indices_of(node: Node, graph: Graph) -> list[Tensor]:
    """Returns the operands that hold sizes, places or axes."""
    positions = operators.lookup(node.op).indices
    return [graph.tensors[node.inputs[p]] for p in positions if p < len(node.inputs) and node.inputs[p]]


def _data(node: Node, graph: Graph) -> list[Tensor]:
    """Returns the other operands."""
    positions = operators.lookup(node.op).indices
    return [graph.tensors[name] for p, name in enumerate(node.inputs) if name and p not in positions]


def _params(tensor: Tensor) -> tuple[tuple[float, ...], tuple[int, ...]] | None:
    quant = tensor.quant
    return None if quant is None else (tuple(quant.scale), tuple(quant.zero_point))


@constraint_check()
def _check_constant_indices(node: Node, graph: Graph, limits: Limits) -> str | None:
    computed = next((tensor.name for tensor in indices_of(node, graph) if not tensor.is_constant), None)
    return None if computed is None else f"'{computed}' is computed"


@constraint_check("position")
def _check_constant_operand(node: Node, graph: Graph, limits: Limits) -> str | None:
    name = operators.lookup(node.op).input_of(node, limits["position"])
    return f"'{name}' is computed" if name and not graph.tensors[name].is_constant else None


@constraint_check()
def _check_plain_gates(node: Node, graph: Graph, limits: Limits) -> str | None:
    """Recurrent layers: an input, states, and weights and biases of all gates, and no more."""
    record = operators.lookup(node.op)
    wanted = {0, *(place for role in record.weights for place in (role.weight, role.bias, role.activation))} - {None}
    missing = next((place for place in wanted if not record.input_of(node, place)), None)
    if missing is not None:
        return f"it has no input {missing}"
    other = next(
        (name for place, name in enumerate(node.inputs) if name and place not in (*wanted, *_states(node, graph))), ""
    )
    return f"it reads '{other}', too" if other else None


@constraint_check("min")
def _check_state(node: Node, graph: Graph, limits: Limits) -> str | None:
    for place in _states(node, graph):
        state = graph.tensors[node.inputs[place]]
        if state.elements < limits["min"]:
            return f"its state '{state.name}' has {state.elements} value"
    return None


def _states(node: Node, graph: Graph) -> list[int]:
    return [place for place, name in enumerate(node.inputs) if name and graph.tensors[name].is_variable]


@constraint_check(ALLOWED)
def _check_index_types(node: Node, graph: Graph, limits: Limits) -> str | None:
    wrong = next((tensor for tensor in indices_of(node, graph) if tensor.dtype not in limits[ALLOWED]), None)
    return None if wrong is None else f"'{wrong.name}' is {wrong.dtype}"


@constraint_check(ALLOWED)
def _check_result_types(node: Node, graph: Graph, limits: Limits) -> str | None:
    wrong = next((n for n in node.outputs if graph.tensors[n].dtype not in limits[ALLOWED]), None)
    return None if wrong is None else f"'{wrong}' is {graph.tensors[wrong].dtype}"


@constraint_check(ALLOWED)
def _check_bias_types(node: Node, graph: Graph, limits: Limits) -> str | None:
    name = operators.lookup(node.op).input_of(node, operators.lookup(node.op).bias)
    return (
        f"its bias is {graph.tensors[name].dtype}"
        if name and graph.tensors[name].dtype not in limits[ALLOWED]
        else None
    )


@constraint_check(ALLOWED)
def _check_activations(node: Node, graph: Graph, limits: Limits) -> str | None:
    found = fused_activation(node)
    return None if found in limits[ALLOWED] else f"it ends in {found}"


@constraint_check(ALLOWED)
def _check_unset(node: Node, graph: Graph, limits: Limits) -> str | None:
    found = next((name for name in limits[ALLOWED] if node.attrs.get(name)), None)
    return None if found is None else f"its option {found} is {node.attrs[found]}"


@constraint_check("max")
def _check_operands(node: Node, graph: Graph, limits: Limits) -> str | None:
    return f"it has {len(node.inputs)} inputs" if len(node.inputs) > limits["max"] else None


@constraint_check()
def _check_same_parameters(node: Node, graph: Graph, limits: Limits) -> str | None:
    result = graph.tensors[node.outputs[0]]
    for tensor in _data(node, graph):
        if tensor.dtype == result.dtype and _params(tensor) != _params(result):
            return f"'{tensor.name}' has other parameters than its result"
    return None


@constraint_check()
def _check_fixed_output(node: Node, graph: Graph, limits: Limits) -> str | None:
    result = graph.tensors[node.outputs[0]]
    fixed = operators.lookup(node.op).fixed_output.get(result.dtype)
    if fixed is None or result.quant is None:
        return None
    scale, zero_point = fixed
    is_right = math.isclose(result.quant.scale[0], scale, rel_tol=1e-3) and tuple(result.quant.zero_point) == (
        zero_point,
    )
    return (
        None
        if is_right
        else f"its result has scale {result.quant.scale[0]:g} and zero point {result.quant.zero_point[0]}"
    )


@constraint_check()
def _check_one_scale(node: Node, graph: Graph, limits: Limits) -> str | None:
    for tensor in _data(node, graph):
        if tensor.quant is not None and tensor.quant.is_per_channel and len(tensor.quant.scale) > 1:
            return f"'{tensor.name}' has {len(tensor.quant.scale)} scales"
    return None


@constraint_check()
def _check_zero_fill(node: Node, graph: Graph, limits: Limits) -> str | None:
    quant: QuantParams | None = graph.tensors[node.outputs[0]].quant
    widths = indices_of(node, graph)[-1].array
    if quant is None or not any(quant.zero_point) or (widths is not None and not np.any(widths)):
        return None
    return f"its zero point is {quant.zero_point[0]}"


@constraint_check()
def _check_whole_indices(node: Node, graph: Graph, limits: Limits) -> str | None:
    rank = len(graph.tensors[node.inputs[0]].shape)
    short = next((t for t in indices_of(node, graph) if math.prod(t.shape) != rank), None)
    return None if short is None else f"'{short.name}' has {math.prod(short.shape)} numbers for {rank} dimensions"


@constraint_check(ALLOWED)
def _check_conversions(node: Node, graph: Graph, limits: Limits) -> str | None:
    found = ">".join(graph.tensors[name].dtype for name in (node.inputs[0], node.outputs[0]))
    return None if found in limits[ALLOWED] else f"it converts {found.replace('>', ' to ')}"


@constraint_check()
def _check_same_types(node: Node, graph: Graph, limits: Limits) -> str | None:
    found = sorted({tensor.dtype for tensor in _data(node, graph)})
    return f"its operands are {' and '.join(found)}" if len(found) > 1 else None


@constraint_check(REFUSED)
def _check_types(node: Node, graph: Graph, limits: Limits) -> str | None:
    names = (name for name in (*node.inputs, *node.outputs) if name)
    wrong = next((name for name in names if graph.tensors[name].dtype in limits[REFUSED]), None)
    return None if wrong is None else f"'{wrong}' is {graph.tensors[wrong].dtype}"


@constraint_check(REFUSED)
def _check_exclusive(node: Node, graph: Graph, limits: Limits) -> str | None:
    is_all = all(node.attrs.get(name) for name in limits[REFUSED])
    return f"its options {' and '.join(limits[REFUSED])} are both set" if is_all else None


@constraint_check()
def _check_no_scalars(node: Node, graph: Graph, limits: Limits) -> str | None:
    names = (*(t.name for t in _data(node, graph) if not t.is_constant), *node.outputs)
    bare = next((name for name in names if not graph.tensors[name].shape), None)
    return None if bare is None else f"'{bare}' has no dimensions"


@constraint_check()
def _check_no_empty_constants(node: Node, graph: Graph, limits: Limits) -> str | None:
    tensors = (graph.tensors[name] for name in node.inputs if name)
    empty = next((tensor.name for tensor in tensors if tensor.is_constant and 0 in tensor.shape), None)
    return None if empty is None else f"'{empty}' holds nothing"
