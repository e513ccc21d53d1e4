"""One node of an integer graph inside a training step, and the registry of the kernels that compute it.

A kernel maps *centred* integers, ``q - zero_point`` in float32, to centred integers, with straight-through gradients.
The arithmetic is that of the reference kernels, where the sources are named. Kernels that only move data, or pick from
it, are the float ones: zero is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featherweight.graph import Node, Tensor, numerics
from featherweight.graph.numerics import integer_range
from featherweight.operators import lookup
from featherweight.operators.call import Array, is_static
from featherweight.operators.fixed_point import Rescale
from featherweight.operators.profiles import Profile
from featherweight.training.graph.registry import Function, Step, float_function, ops
from featherweight.training.integer import fixed_point
from featherweight.training.integer.int64_scope import wide
from featherweight.training.integer.straight_through import (
    ALMOST_HALF,
    binary_exponent,
    bounded,
    joined,
    power_of_two,
    quotient,
    reciprocal,
    requantized,
    rounded,
    rounded_away,
    rounded_half_away,
    standing_for,
)

# What float32 holds below the largest integers that a bias may begin with: room for the sums that it is added to.
LARGEST_BIAS = {
    dtype: float(np.nextafter(np.float32(largest), 0.0)) for dtype, largest in numerics.LARGEST_BIAS.items()
}
# What a bias times its factor keeps of 31 bits, and an exponent beyond every limit.
_FACTOR_BITS, _MOST_BITS = 29, 60
_STORED = ("int8", "int16", "int4")


def is_quantized(tensor: Tensor | None) -> bool:
    """True for a tensor whose integers stand for real numbers."""
    return tensor is not None and tensor.quant is not None and tensor.dtype in _STORED


@dataclass(frozen=True, eq=False)
class Channels:
    """What the integers of one node with a weight are scaled by, float32: one number, or one for each output channel.

    Attributes:
        inverse: one over the weight's scale.
        unit_inverse: one over the input's scale times the weight's, which is that of the bias.
        factor: the input's scale times the weight's, over the output's.
    """

    inverse: Array
    unit_inverse: Array
    factor: Array


@dataclass(frozen=True, eq=False)
class IntegerStep(Step):
    """One node of an integer graph; its integers are centred, its weights and biases real numbers: they are trained.

    Attributes:
        parameters: returns a tensor's (scale, zero point), float32.
        zero: a variable that holds 0 (see `straight_through.quotient`).
        constants: what the operator's host function computed from the parameters (tables).
        chunks: into how many parts the input channels are cut, so that sums of products stay exact.
        learns: scales are trained, and get their gradients.
        channels: what scales the integers of a node with a weight, where it is computed for all nodes at once.
    """

    parameters: Callable[[Tensor], tuple[Array, Array]] = lambda tensor: (None, None)
    zero: Array = None
    constants: tuple[Array, ...] = ()
    chunks: int = 1
    learns: bool = False
    channels: Channels | None = None

    @property
    def is_delegated(self) -> bool:
        """True where XNNPACK runs the node; it has no kernels for int16 (its other limits: `operators.placed`)."""
        return self.profile.is_delegate and self.outputs[0].dtype == "int8"

    def affine(self, tensor: Tensor) -> tuple[Array, Array]:
        """Returns the (scale, zero point) of a tensor at the moment."""
        return self.parameters(tensor)

    def scale(self, position: int) -> Array:
        """Returns an input's scale."""
        return self.affine(self.input(position))[0]

    def zero_point(self, position: int) -> Array:
        """Returns an input's zero point."""
        return self.affine(self.input(position))[1]

    def over_output(self, scale: Array) -> Array:
        """Returns a scale over the output's, correctly rounded."""
        return quotient(scale, self.affine(self.outputs[0])[0], self.zero)

    def bounds(self) -> tuple[Array, Array]:
        """Returns the centred bounds of the output: of its type, and of the fused activation."""
        scale, zero_point = self.affine(self.outputs[0])
        qmin, qmax = integer_range(self.outputs[0].dtype)
        low, high = self.fused_bounds()
        least, largest = qmin - zero_point, qmax - zero_point
        if low is not None:
            least = self._bound(low, scale, zero_point, qmin)
        if high is not None:
            largest = self._bound(high, scale, zero_point, qmax)
        return least, largest

    def _bound(self, value: float, scale: Array, zero_point: Array, limit: int) -> Array:
        """Returns the centred integer of a fused bound; XNNPACK adds the zero point before it rounds."""
        xp, steps = (np, np.float32(value) / scale) if is_static(scale) else (ops, ops.divide(value, scale))
        if self.is_delegated:
            rounded_steps = xp.round(steps + zero_point)
        else:
            rounded_steps = xp.sign(steps) * xp.floor(xp.abs(steps) + ALMOST_HALF) + zero_point
        return (xp.minimum if limit > 0 else xp.maximum)(rounded_steps, limit) - zero_point

    def finished(
        self,
        sums: Array,
        *scales: Array,
        factor: Array = None,
        rescale: Rescale | None = None,
        exact: Callable[[], Array] | None = None,
    ) -> Array:
        """Returns the output's centred integers: sums times the product of scales over the output's, in the bounds.

        Args:
            sums: integers in float32.
            scales: one or two.
            factor: their product over the output's scale, where it is known.
            rescale: the arithmetic where there is a multiplier; `Profile.rescale` if left out.
            exact: computes the sums in 64 bits, inside `wide`, where float32 may not hold them; for multipliers only.
        """
        low, high = self.bounds()
        real_factor = self.over_output(scales[0] if len(scales) == 1 else joined(*scales)) if factor is None else factor
        if self.is_delegated and self.learns:
            return rounded(bounded(sums * real_factor, low, high))
        if self.is_delegated:
            return requantized(sums, real_factor, low, high)
        with wide():
            wide_factor = fixed_point.factor(scales, self.affine(self.outputs[0])[0], self.zero)
            integers = sums if exact is None else exact()
            value = fixed_point.leave(fixed_point.rescaled(integers, wide_factor, rescale or self.profile.rescale))
        return self.standing_for(value, sums * real_factor)

    def standing_for(self, value: Array, surrogate: Array) -> Array:
        """Returns integers inside the bounds, with the gradient of a surrogate inside the bounds."""
        low, high = self.bounds()
        return standing_for(ops.clip(value, low, high), bounded(surrogate, low, high))

    def in_graph(self, arrays: tuple[Array | None, ...], node: Node | None = None) -> Step:
        """Returns the node as one of a float graph, with other values of its inputs."""
        return Step(
            node or self.node,
            arrays,
            self.inputs,
            self.outputs,
            run_graph=self.run_graph,
            dtype=self.dtype,
            known=self.known,
        )

    def in_float(self, *arrays: Array | None) -> Array:
        """Returns what the operator's float function makes of other inputs, before the fused activation."""
        computes = float_function(self.node.op)
        if computes is None:
            raise self.unsupported("the operator has no differentiable function")
        attrs = {**self.node.attrs, "fused_activation_function": "NONE"}
        return computes(self.in_graph(arrays, replace(self.node, attrs=attrs)))[0]


_KERNELS: dict[str, Function] = {}
_RUNS_IN: dict[str, Callable[[Profile], bool]] = {}


def _any(profile: Profile) -> bool:
    return True


def integer(
    *names: str, runs_in: Callable[[Profile], bool] = _any
) -> Callable[[Callable[[Any], Array]], Callable[[Any], Array]]:
    """Registers the training kernel of operators, in the arithmetics that it has."""

    def attach(computes: Callable[[Any], Array]) -> Callable[[Any], Array]:
        _KERNELS.update(dict.fromkeys(names, lambda step: (computes(step),)))
        _RUNS_IN.update(dict.fromkeys(names, runs_in))
        return computes

    return attach


def integer_function(op: str, profile: Profile) -> Function | None:
    """Returns the training kernel of an operator's integer form, or None where it has none in an arithmetic.

    What only picks from values of one scale does to centred integers what it does to real numbers.
    """
    if op in _KERNELS:
        return _KERNELS[op] if _RUNS_IN[op](profile) else None
    return float_function(op) if lookup(op).is_mover or lookup(op).picks else None


def whole_number(x: Array) -> Array:
    """Returns a number rounded half to even, as int32."""
    return int(np.round(x)) if is_static(x) else ops.cast(ops.round(x), "int32")


def quantized_weight(weight: Array, scale: Array, dtype: str, zero: Array, *, learns: bool = True) -> Array:
    """Returns the integers of a weight, in float32; the scale broadcasts. Gradients pass inside the range.

    They pass to the scale, too, if it `learns`. Of NumPy arrays, it is NumPy that computes them.
    """
    return in_units(weight, reciprocal(scale, zero), largest_weight(dtype), learns=learns)


def largest_weight(dtype: str) -> np.float32:
    """Returns the largest magnitude of a weight's integers."""
    return np.float32(integer_range(dtype, narrow=True)[1])


def quantized_bias(bias: Array, scale: Array, limit: Array, zero: Array, *, learns: bool = True) -> Array:
    """Returns the integers of a bias at input scale × weight scale, in float32; `limit` is that of `bias_limit`."""
    return in_units(bias, reciprocal(scale, zero), limit, learns=learns)


def bias_limit(dtype: str, factor: Array | None) -> Array:
    """Returns the largest magnitude of a bias's integers, float32.

    Times the factor from accumulators to outputs, it stays in the 32 bits that fixed point makes of it (LiteRT cuts
    higher bits off int64 accumulators: MultiplyByQuantizedMultiplier in common.cc).

    Args:
        dtype: of the bias.
        factor: of the output; None where it is multiplied in float.
    """
    largest = np.float32(LARGEST_BIAS[dtype])
    if factor is None:
        return largest
    xp = np if is_static(factor) else ops
    return xp.minimum(power_of_two(xp.minimum(_FACTOR_BITS - binary_exponent(factor), _MOST_BITS)), largest)


def in_units(x: Array, inverse: Array, limit: Array, *, learns: bool) -> Array:
    """Returns ``x * inverse`` in [-limit, limit], rounded, in float32; gradients as of `quantized_weight`."""
    if is_static(x) and is_static(inverse):
        return rounded_away(np.clip(x * inverse, -limit, limit), np)
    if learns:
        return rounded_half_away(bounded(x * inverse, -limit, limit))
    return requantized(x, inverse, -limit, limit, half_away=True)


def off_pole(op: str, integers: Array) -> Array:
    """Returns centred integers; above zero, where the operator's slope is infinite at it, and without a gradient there.

    2^-10 of a step: its reciprocal root is beyond the largest integer, as that of zero.
    """
    return ops.maximum(integers, 2.0**-10) if lookup(op).is_steep_at_zero else integers


def spread(scale: Array, tensor: Tensor) -> Array:
    """Shapes a tensor's scales so that they broadcast along its quantized axis."""
    if tensor.quant is None or tensor.quant.axis is None:
        return scale
    xp = np if is_static(scale) else ops
    return xp.reshape(scale, [-1 if axis == tensor.quant.axis else 1 for axis in range(len(tensor.shape))])
