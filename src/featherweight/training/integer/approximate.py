"""Classic fake quantization: each operator in float, between quantized weights and a quantized result.

It is not what integer kernels compute (their rounding is another), and runs on any operator that has a float function,
for any arithmetic. Source: Jacob et al., 1712.05877, section 3.
"""

from __future__ import annotations

from dataclasses import replace

from featherweight.errors import UnsupportedOp
from featherweight.operators import lookup
from featherweight.operators.call import Array
from featherweight.training.graph.registry import Function, Step, float_function, ops
from featherweight.training.integer.step import IntegerStep, is_quantized, off_pole, quantized_weight, spread
from featherweight.training.integer.straight_through import bounded, reciprocal, rounded, rounded_half_away


def approximate_function(op: str) -> Function | None:
    """Returns the fake-quantized function of an operator; None where it has no float function."""
    computes = float_function(op)
    if lookup(op).is_conversion:
        return lambda step: _through(step, lambda inner: (inner.array(0),))
    return None if computes is None else lambda step: _through(step, computes)


def _through(step: Step, computes: Function) -> tuple[Array, ...]:
    if not isinstance(step, IntegerStep):
        raise UnsupportedOp(f"{step.place} computes in float.")
    arrays = tuple(_real(step, position) for position in range(len(step.arrays)))
    results = computes(step.in_graph(arrays))
    return tuple(_as_integers(step, index, result) for index, result in enumerate(results))


def _real(step: IntegerStep, position: int) -> Array | None:
    """Returns an input as a real number, through its integers."""
    array, tensor, op = step.arrays[position], step.inputs[position], lookup(step.node.op)
    if array is None or tensor is None or not is_quantized(tensor) or position == op.bias:
        return array
    scale = spread(step.affine(tensor)[0], tensor)
    if position == op.weight and tensor.is_constant:
        array = quantized_weight(array, scale, tensor.dtype, step.zero)
    return ops.multiply(off_pole(step.node.op, array), scale)


def _as_integers(step: IntegerStep, index: int, result: Array) -> Array:
    """Returns a result as centred integers, where it is stored as such."""
    tensor = step.outputs[index]
    if not is_quantized(tensor):
        return result
    around = replace(step, outputs=(tensor,), node=replace(step.node, attrs={}))
    low, high = around.bounds()
    steps = bounded(result * reciprocal(step.affine(tensor)[0], step.zero), low, high)
    return rounded(steps) if step.is_delegated else rounded_half_away(steps)
