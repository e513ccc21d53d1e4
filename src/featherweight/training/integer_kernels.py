"""Integer kernels of operators without weights: sums, products, means, pools, conversions, resizing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from featherweight.ops.resize import delegated_axis, fixed_axis
from featherweight.training import fixed_point
from featherweight.training.conv import padding_of, strides_of
from featherweight.training.exact import (
    binary_exponent,
    bounded,
    joined,
    power_of_two,
    quotient,
    reciprocal,
    requantized,
    rounded,
    rounded_half_away,
    standing_for,
)
from featherweight.training.integer_step import IntegerStep, integer, spread
from featherweight.training.pooling import axes_of, window_counts
from featherweight.training.registry import (
    Array,
    is_static,
    ops,
)
from featherweight.training.wide import wide

# Far beyond any integer of an activation.
_FAR = float(1 << 20)
# LiteRT's optimized kernel quantizes so many real numbers at a time, and what is left in another arithmetic.
_REAL_LANES = 8
_INFINITY = float(np.finfo(np.float32).max)


@integer("ADD", "SUB")
def added(step: IntegerStep) -> Array:
    """Two multipliers, one sum, one rounding shift (XNNPACK: 21 bits) or one more multiplier."""
    sign = 1 if step.node.op == "ADD" else -1
    ratios = step.over_output(step.scale(0)), step.over_output(step.scale(1))
    value = _delegated_sum(step, ratios, sign) if step.is_delegated else _fixed_sum(step, sign)
    return step.standing_for(value, step.array(0) * ratios[0] + sign * (step.array(1) * ratios[1]))


def _delegated_sum(step: IntegerStep, ratios: tuple[Array, Array], sign: int) -> Array:
    shift = 20 - binary_exponent(max(ratios) if all(map(is_static, ratios)) else ops.maximum(*ratios))
    one = power_of_two(shift)
    x, z = (ops.cast(step.array(at), "int32") * _whole(ratio * one) for at, ratio in enumerate(ratios))
    half = 1 << (int(shift) - 1) if is_static(shift) else ops.left_shift(ops.ones_like(shift), shift - 1)
    return ops.cast(ops.right_shift(x + sign * z + half, int(shift) if is_static(shift) else shift), "float32")


def _fixed_sum(step: IntegerStep, sign: int) -> Array:
    """Both operands are shifted left, brought to twice the larger scale, added and rescaled (LiteRT add.cc)."""
    scales, rescale = (step.scale(0), step.scale(1)), step.profile.rescale
    left = np.float32(1 << (20 if step.outputs[0].dtype == "int8" else 15))
    twice = 2 * (max(scales) if all(map(is_static, scales)) else ops.maximum(*scales))
    with wide():
        x, z = (
            fixed_point.rescaled(
                fixed_point.real(step.array(at)) * float(left), fixed_point.factor((scale,), twice, step.zero), rescale
            )
            for at, scale in enumerate(scales)
        )
        factor = fixed_point.factor((twice,), step.affine(step.outputs[0])[0] * left, step.zero)
        return fixed_point.leave(fixed_point.rescaled(x + sign * z, factor, rescale))


def _whole(x: Array) -> Array:
    """Returns a number rounded half to even, as int32."""
    return int(np.round(x)) if is_static(x) else ops.cast(ops.round(x), "int32")


@integer("MUL")
def multiplied(step: IntegerStep) -> Array:
    """One product, one factor, which is computed in float32."""
    products, scale = step.array(0) * step.array(1), joined(step.scale(0), step.scale(1))
    if step.is_delegated:
        return step.finished(products, scale)
    factor = step.over_output(scale)
    with wide():
        exact = fixed_point.real(step.array(0)) * fixed_point.real(step.array(1))
        value = fixed_point.leave(fixed_point.rescaled(exact, fixed_point.real(factor), step.profile.rescale))
    return step.standing_for(value, products * factor)


@integer("BATCH_MATMUL")
def batch_matmul(step: IntegerStep) -> Array:
    """Sums of products of two operands, one factor; XNNPACK does not take second operands with a zero point."""
    sums, scale, quant = (
        step.in_float(step.array(0), step.array(1)),
        joined(step.scale(0), step.scale(1)),
        step.input(1).quant,
    )
    if quant is not None and any(quant.zero_point) and step.profile.fallback is not None:
        step = replace(step, profile=step.profile.fallback)
    is_wide = step.outputs[0].dtype == "int16"

    def exact() -> Array:
        x, z = (ops.stop_gradient(fixed_point.real(step.array(at))) for at in (0, 1))
        return step.in_float(x, z) if is_wide else fixed_point.real(sums)

    rescale = step.profile.rescale_wide if is_wide else step.profile.rescale
    return step.finished(sums, scale, rescale=rescale, exact=exact)


@integer("MEAN")
def mean(step: IntegerStep) -> Array:
    """One sum, one factor."""
    x, axes = step.array(0), axes_of(step)
    count = math.prod(x.shape[axis] for axis in axes)
    factor = quotient(step.over_output(step.scale(0)), np.float32(count), step.zero)
    keep = bool(step.node.attrs.get("keep_dims"))
    sums = ops.sum(x, axis=axes, keepdims=keep)
    if not step.is_delegated:
        with wide():
            exact = fixed_point.whole(ops.sum(fixed_point.real(x), axis=axes, keepdims=keep))
            value = _fixed_mean(step, exact, count)
        return step.standing_for(value, sums * factor)
    # XNNPACK folds both zero points into one number. The clip keeps the product from being contracted with the sum.
    zero_points = step.zero_point(0) * np.float32(count), step.affine(step.outputs[0])[1]
    offset = zero_points[1] - bounded(zero_points[0] * factor, -_FAR, _FAR)
    shifted = bounded((sums + zero_points[0]) * factor, -_FAR, _FAR) + offset
    return bounded(rounded(shifted) - zero_points[1], *step.bounds())


def _fixed_mean(step: IntegerStep, sums: Array, count: int) -> Array:
    """LiteRT's reduce.cc divides the multiplier by the count, with as many more bits as the count has; inside `wide`.

    A chip that only shifts divides the sum, ties away from zero, and then rescales.
    """
    factor = fixed_point.factor((step.scale(0),), step.affine(step.outputs[0])[0], step.zero)
    if step.profile.only_shifts:
        above, below = (ops.floor_divide(part + count // 2, np.int64(count)) for part in (sums, -sums))
        return fixed_point.leave(fixed_point.rescaled(ops.where(sums > 0, above, -below), factor, step.profile.rescale))
    multiplier, shift = fixed_point.quantized_multiplier(factor)
    bits = fixed_point.whole(ops.minimum(min(count.bit_length() - 1, 32), 31 + shift))
    multiplier = fixed_point.whole(ops.floor_divide(ops.left_shift(multiplier, bits), np.int64(count)))
    return fixed_point.leave(fixed_point.rounding(step.profile.rescale)(sums, multiplier, shift - bits))


@integer("AVERAGE_POOL_2D")
def average_pool(step: IntegerStep) -> Array:
    """Integer mean of what the window covers, ties away from zero."""
    x, zero_point = step.array(0), step.zero_point(0)
    size = step.attr_int("filter_height", 1), step.attr_int("filter_width", 1)
    _, counts = window_counts(x, size, strides_of(step), padding_of(step))
    number = np.full((1, 1), math.prod(size)) if counts is None else counts
    number = ops.convert_to_tensor(number[None, :, :, None].astype(np.int32))
    average = step.in_float(x)
    sums = ops.cast(ops.round(average * ops.cast(number, "float32")), "int32") + _whole(zero_point) * number
    half = ops.floor_divide(number, 2)
    value = ops.where(sums > 0, ops.floor_divide(sums + half, number), -ops.floor_divide(half - sums, number))
    return step.standing_for(ops.cast(value, "float32") - zero_point, average)


@integer("MAX_POOL_2D")
def max_pool(step: IntegerStep) -> Array:
    """Largest value in the window, inside the fused bounds."""
    return bounded(step.in_float(step.array(0)), *step.bounds())


@integer("QUANTIZE")
def quantize(step: IntegerStep) -> Array:
    """Real numbers over the scale (XNNPACK: times its reciprocal); integers of another scale rescaled."""
    x, scale = step.array(0), step.affine(step.outputs[0])[0]
    if step.input(0).quant is not None:
        return _requantize(step)
    low, high = step.bounds()
    inverse = reciprocal(scale, step.zero)
    is_reference = step.profile.is_reference or not step.profile.is_litert
    if is_reference:
        steps = bounded(quotient(x, scale, step.zero), -_FAR, _FAR)
        return bounded(rounded_half_away(steps), low, high)
    value = rounded(bounded(x * inverse, low, high)) if step.learns else requantized(x, inverse, low, high)
    return value if step.is_delegated else _with_rest(step, x, value)


def _with_rest(step: IntegerStep, x: Array, value: Array) -> Array:
    """LiteRT's optimized kernel divides what is left behind whole vectors in float64, ties away from zero.

    Where the batch is unknown when the step is traced, nothing is taken to be left.
    """
    if None in x.shape or not math.prod(x.shape) % _REAL_LANES:
        return value
    count = math.prod(x.shape) % _REAL_LANES
    low, high = step.bounds()
    with wide():
        real, scale = (
            fixed_point.real(ops.reshape(x, (-1,))[-count:]),
            fixed_point.real(step.affine(step.outputs[0])[0]),
        )
        steps = fixed_point.rounded_half_away_real(real / (scale + fixed_point.real(step.zero) * real))
        rest = ops.clip(fixed_point.leave(steps), low, high)
    flat = ops.concatenate([ops.reshape(value, (-1,))[:-count], rest])
    return standing_for(ops.reshape(flat, x.shape), value)


def _requantize(step: IntegerStep) -> Array:
    """XNNPACK multiplies with 8 fractional bits."""
    x, ratio = step.array(0), step.over_output(step.scale(0))
    if not step.is_delegated or step.input(0).dtype != "int8":
        profile = step.profile.fallback or step.profile
        return replace(step, profile=profile).finished(x, step.scale(0))
    value = ops.right_shift(ops.cast(x, "int32") * _whole(256 * ratio) + 128, 8)
    return step.standing_for(ops.cast(value, "float32"), x * ratio)


@integer("DEQUANTIZE")
def dequantize(step: IntegerStep) -> Array:
    """Centred integers times their scale."""
    x, scale = step.array(0), spread(step.scale(0), step.input(0))
    # The bounds keep the product from being contracted with a sum that follows.
    value = bounded(x * scale, -_INFINITY, _INFINITY)
    profile = step.profile.fallback or step.profile
    is_delegated = step.profile.is_delegate and step.input(0).dtype == "int8"
    if is_delegated or not profile.is_vectorized or step.input(0).dtype == "int16" or step.input(0).is_constant:
        return value
    # LiteRT's optimized kernel multiplies vectors before it subtracts, and what is left after.
    zero_point = step.zero_point(0)
    vectors = bounded((x + zero_point) * scale, -_INFINITY, _INFINITY) - zero_point * scale
    size = None if None in x.shape else math.prod(x.shape)
    is_vector = np.arange(size or 1) < (size or 1) - (size or 0) % _REAL_LANES
    chosen = ops.where(is_vector.reshape(x.shape if size else (1,) * len(x.shape)), vectors, value)
    return standing_for(chosen, value)


@integer("RESIZE_BILINEAR")
def resize_bilinear(step: IntegerStep) -> Array:
    """Interpolation between four pixels with weights of 11 bits (XNNPACK), or of 10, ties away from zero."""
    x, zero_point = step.array(0), step.zero_point(0)
    align, half = (bool(step.node.attrs.get(name)) for name in ("align_corners", "half_pixel_centers"))
    axis_of, bits = (delegated_axis, 11) if step.is_delegated else (fixed_axis, 10)
    whole = ops.cast(x + zero_point, "int32")
    for axis, size in zip((2, 1), step.integers(1)[::-1], strict=True):
        low, high, weight = axis_of(int(x.shape[axis]), size, align, half)
        weights = ops.convert_to_tensor(weight.astype(np.int32).reshape([-1 if a == axis else 1 for a in range(4)]))
        lower, upper = ops.take(whole, low, axis=axis), ops.take(whole, high, axis=axis)
        whole = lower * ((1 << bits) - weights) + upper * weights
    rounding = 1 << (2 * bits - 1)
    if step.is_delegated:
        whole = ops.right_shift(whole + rounding, 2 * bits)
    else:  # the division truncates toward zero
        magnitude = ops.right_shift(ops.abs(whole) + rounding, 2 * bits)
        whole = ops.where(whole < 0, -magnitude, magnitude)
    return standing_for(ops.cast(whole, "float32") - zero_point, step.in_float(x, step.array(1)))
