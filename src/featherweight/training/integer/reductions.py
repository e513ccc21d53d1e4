"""Integer kernels of sums, means and norms."""

from __future__ import annotations

import math

import numpy as np

from featherweight.operators.call import Array
from featherweight.operators.families.reduction import axes_of
from featherweight.operators.fixed_point import divided, inverse_square_root, quantize_multiplier
from featherweight.training.graph.registry import ops
from featherweight.training.integer import fixed_point
from featherweight.training.integer.int64_scope import INT64, wide
from featherweight.training.integer.step import IntegerStep, integer
from featherweight.training.integer.straight_through import bounded, quotient, rounded, rounded_half_away

# A clip at these bounds keeps a product from being contracted with the sum that follows.
_INFINITY = float(np.finfo(np.float32).max)


@integer("MEAN")
def mean(step: IntegerStep) -> Array:
    """One sum, one factor."""
    count = _count(step)
    factor = quotient(step.over_output(step.scale(0)), np.float32(count), step.zero)
    if step.is_delegated:
        return _delegated(step, factor)
    if step.profile.is_vectorized and _is_over_image(step):
        return _image_mean(step, factor)
    return step.standing_for(_fixed_mean(step, count), _surrogate(step, factor))


# LiteRT's reference kernel reads the integers as uint8, and gives garbage.
@integer("SUM", runs_in=lambda profile: profile.is_micro or not (profile.is_litert and profile.is_reference))
def total(step: IntegerStep) -> Array:
    """One sum, one factor: in float32, but for chips with a multiplier and TFLite Micro."""
    factor = step.over_output(step.scale(0))
    if step.is_delegated:
        return _delegated(step, factor)
    if step.profile.is_micro or not step.profile.is_litert:
        with wide():
            exact = fixed_point.factor((step.scale(0),), step.affine(step.outputs[0])[0], step.zero)
            sums = fixed_point.whole(_reduced(step, fixed_point.real(step.array(0))))
            value = fixed_point.leave(fixed_point.rescaled(sums, exact, step.profile.rescale))
        return step.standing_for(value, _surrogate(step, factor))
    offset = _alone(-step.zero_point(0) * factor * np.float32(_count(step)))
    return step.standing_for(rounded_half_away(_alone(_raw_sums(step) * factor) + offset), _surrogate(step, factor))


def _count(step: IntegerStep) -> int:
    """Returns how many values make one."""
    return math.prod(int(step.array(0).shape[axis]) for axis in axes_of(step))


def _reduced(step: IntegerStep, x: Array) -> Array:
    return ops.sum(x, axis=axes_of(step), keepdims=bool(step.node.attrs.get("keep_dims")))


def _raw_sums(step: IntegerStep) -> Array:
    """Returns sums of integers as they are stored, exact in int32, as float32."""
    raw = ops.cast(ops.stop_gradient(step.array(0) + step.zero_point(0)), "int32")
    return ops.cast(_reduced(step, raw), "float32")


def _surrogate(step: IntegerStep, factor: Array) -> Array:
    return _reduced(step, step.array(0)) * factor


def _alone(product: Array) -> Array:
    return bounded(product, -_INFINITY, _INFINITY)


def _delegated(step: IntegerStep, factor: Array) -> Array:
    """XNNPACK folds both zero points into one number, and rounds half to even."""
    in_zero, out_zero = step.zero_point(0) * np.float32(_count(step)), step.affine(step.outputs[0])[1]
    offset = out_zero - _alone(in_zero * factor)
    value = rounded(_alone(_raw_sums(step) * factor) + offset) - out_zero
    return step.standing_for(value, _surrogate(step, factor))


def _is_over_image(step: IntegerStep) -> bool:
    """True for the means that LiteRT's optimized kernels have a kernel of their own for."""
    return (
        bool(step.node.attrs.get("keep_dims"))
        and set(axes_of(step)) == {1, 2}
        and len(step.array(0).shape) == 4
        and step.outputs[0].dtype == "int8"
    )


def _image_mean(step: IntegerStep, real_factor: Array) -> Array:
    """LiteRT's optimized mean over (height, width) folds the zero points into one offset (integer_ops/mean.h)."""
    (in_scale, in_zero), out_scale = step.affine(step.input(0)), step.affine(step.outputs[0])[0]
    offset = rounded_half_away(quotient(in_zero * in_scale, out_scale, step.zero))
    factor = quotient(in_scale, np.float32(_count(step)) * out_scale, step.zero)
    with wide():
        sums = fixed_point.rescaled(_raw_sums(step), fixed_point.real(factor), step.profile.rescale)
        value = fixed_point.leave(sums)
    return step.standing_for(value - offset, _surrogate(step, real_factor))


def _fixed_mean(step: IntegerStep, count: int) -> Array:
    """LiteRT's reduce.cc divides the multiplier by the count, with as many more bits as the count has.

    A chip that only shifts divides the sum, ties away from zero, and then rescales.
    """
    rescale = step.profile.rescale
    with wide():
        sums = fixed_point.whole(_reduced(step, fixed_point.real(step.array(0))))
        factor = fixed_point.factor((step.scale(0),), step.affine(step.outputs[0])[0], step.zero)
        if step.profile.only_shifts:
            return fixed_point.leave(fixed_point.rescaled(divided(sums, np.int64(count), INT64), factor, rescale))
        multiplier, shift = quantize_multiplier(factor, INT64)
        bits = fixed_point.whole(ops.minimum(min(count.bit_length() - 1, 32), 31 + shift))
        multiplier = fixed_point.whole(ops.floor_divide(ops.left_shift(multiplier, bits), np.int64(count)))
        return fixed_point.leave(rescale(sums, multiplier, shift - bits, INT64))


@integer("L2_NORMALIZATION")
def l2_normalization(step: IntegerStep) -> Array:
    """x / sqrt(sum of squares) by a reciprocal root in fixed point; the output has 7 fractional bits."""
    x = step.array(0)
    with wide():
        integers = fixed_point.whole(x)
        multiplier, shift = inverse_square_root(ops.sum(integers * integers, axis=-1, keepdims=True), INT64)
        value = fixed_point.leave(step.profile.rescale(integers, multiplier, shift + 7, INT64))
    return step.standing_for(value, step.in_float(x) * 128.0)
