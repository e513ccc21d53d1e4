"""Integer softmax inside a training step: exponentials from tables of the host, the rest integer for integer.

The arithmetic is that of `operators.kernels`, `softmax` and, for int16, `interpolation`, where the sources are named.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featherweight.graph import Node, Tensor
from featherweight.operators.call import Array
from featherweight.operators.kernels.interpolation import normalized_16, softmax_16_tables
from featherweight.operators.kernels.softmax import exponentials_fixed, exponentials_real, normalized_fixed
from featherweight.operators.profiles import Profile
from featherweight.training.graph.registry import ops
from featherweight.training.integer.fixed_point import whole
from featherweight.training.integer.int64_scope import INT64, wide
from featherweight.training.integer.lookup_tables import HOST
from featherweight.training.integer.step import IntegerStep, integer

# Up to so many values are added up without a loop.
_UNROLLED = 64


def host_constants(
    node: Node, inputs: Sequence[Tensor], outputs: Sequence[Tensor], profile: Profile
) -> tuple[np.ndarray, ...]:
    """Returns the exponentials of 0, -1 … steps of the input below its largest value, and what else the form needs."""
    quant = inputs[0].quant
    assert quant is not None
    scale, beta = np.float32(quant.scale[0]), float(node.attrs.get("beta", 1.0))
    if inputs[0].dtype == "int16":
        real = np.float32 if profile.is_micro else np.float64
        return tuple(table.astype(np.float32) for table in softmax_16_tables(scale, beta, real))
    if profile.is_reference:
        return (exponentials_fixed(scale, beta).astype(np.int32),)
    return (exponentials_real(scale, beta),)


HOST["SOFTMAX"] = host_constants


@integer("SOFTMAX")
def softmax(step: IntegerStep) -> Array:
    """Softmax over the last axis; the gradient is the float function's."""
    x = step.array(0)
    below = ops.cast(ops.max(x, axis=-1, keepdims=True) - x, "int32")
    if step.input(0).dtype == "int16":
        value, steps = _of_16(step, below), 32768.0
    else:
        value, steps = (_fixed if step.profile.is_reference else _real)(step, below), 256.0
    return step.standing_for(value, step.in_float(x * step.scale(0)) * steps)


def _real(step: IntegerStep, below: Array) -> Array:
    """Float32 exponentials, added up one after another."""
    values = ops.take(step.constants[0], below)
    inverse = ops.divide(1.0, _summed_in_order(values) * (1 / 256))
    # The clip keeps the product from being contracted with the sum that follows.
    scaled = ops.clip(values * ops.expand_dims(inverse, -1), 0.0, 256.0)
    return ops.floor(scaled + 0.5)


def _summed_in_order(values: Array) -> Array:
    """Returns the sum over the last axis, first to last: another order rounds otherwise."""
    parts = ops.moveaxis(values, -1, 0)
    if parts.shape[0] > _UNROLLED:
        return ops.scan(lambda carry, part: (carry + part, None), ops.zeros_like(parts[0]), parts)[0]
    total = parts[0]
    for index in range(1, parts.shape[0]):
        total = total + parts[index]
    return total


def _fixed(step: IntegerStep, below: Array) -> Array:
    """Exponentials with 31 fractional bits, and gemmlowp's reciprocal of their sum."""
    with wide():
        return ops.cast(normalized_fixed(whole(ops.take(step.constants[0], below)), INT64), "float32")


def _of_16(step: IntegerStep, below: Array) -> Array:
    """Exponentials and the reciprocal of their sum from tables."""
    with wide():
        exponential = whole(ops.take(step.constants[0], below))
        return ops.cast(normalized_16(exponential, step.constants[1], INT64), "float32")
