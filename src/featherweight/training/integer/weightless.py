"""Integer kernels of operators without weights: matrix products, pools, conversions, resizing."""

from __future__ import annotations

import math

import numpy as np

from featherweight.operators.call import Array
from featherweight.operators.families.pooling import size_of
from featherweight.operators.families.resize import interpolated
from featherweight.operators.fixed_point import divided
from featherweight.operators.geometry import padding_of, pixel_counts, strides_of
from featherweight.training.graph.registry import ops
from featherweight.training.integer import fixed_point
from featherweight.training.integer.int64_scope import wide
from featherweight.training.integer.step import IntegerStep, integer, spread, whole_number
from featherweight.training.integer.straight_through import (
    bounded,
    joined,
    quotient,
    reciprocal,
    requantized,
    rounded,
    rounded_half_away,
    standing_for,
)

# Far beyond any integer of an activation.
_FAR = float(1 << 20)
# LiteRT's optimized kernels convert so many numbers at a time, and what is left in another arithmetic.
_REAL_LANES, _REQUANTIZE_LANES = 8, 16
_INFINITY = float(np.finfo(np.float32).max)


@integer("BATCH_MATMUL")
def batch_matmul(step: IntegerStep) -> Array:
    """Sums of products of two operands, one factor."""
    sums, scale = step.in_float(step.array(0), step.array(1)), joined(step.scale(0), step.scale(1))
    is_wide = step.outputs[0].dtype == "int16"

    def exact() -> Array:
        x, z = (ops.stop_gradient(fixed_point.real(step.array(at))) for at in (0, 1))
        return step.in_float(x, z) if is_wide else fixed_point.real(sums)

    rescale = step.profile.rescale_wide if is_wide else step.profile.rescale
    return step.finished(sums, scale, rescale=rescale, exact=exact)


@integer("AVERAGE_POOL_2D")
def average_pool(step: IntegerStep) -> Array:
    """Integer mean of what the window covers, ties away from zero."""
    x, zero_point = step.array(0), step.zero_point(0)
    size, extents = size_of(step), (int(x.shape[1]), int(x.shape[2]))
    counts = pixel_counts(extents, size, strides_of(step), padding_of(step))
    number = np.full((1, 1), math.prod(size)) if counts is None else counts
    number = ops.convert_to_tensor(number[None, :, :, None].astype(np.int32))
    average = step.in_float(x)
    sums = ops.cast(ops.round(average * ops.cast(number, "float32")), "int32") + whole_number(zero_point) * number
    return step.standing_for(ops.cast(divided(sums, number, ops), "float32") - zero_point, average)


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
    """XNNPACK multiplies with 8 fractional bits, LiteRT's optimized kernel rounds vectors as matrix products."""
    x, ratio = step.array(0), step.over_output(step.scale(0))
    is_byte = step.input(0).dtype == step.outputs[0].dtype == "int8"
    if not step.profile.is_delegate:
        value = step.finished(x, step.scale(0))
        if not step.profile.is_vectorized or not is_byte:
            return value
        vectors = step.finished(x, step.scale(0), rescale=step.profile.rescale_products)
        return ops.where(_is_in_vector(x, _REQUANTIZE_LANES), vectors, value)
    value = ops.right_shift(ops.cast(x, "int32") * whole_number(256 * ratio) + 128, 8)
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
    return standing_for(ops.where(_is_in_vector(x, _REAL_LANES), vectors, value), value)


def _is_in_vector(x: Array, lanes: int) -> np.ndarray:
    """Returns which elements lie in whole vectors; all of them, where the batch is unknown when the step is traced."""
    if None in x.shape:
        return np.array(True)
    size = math.prod(x.shape)
    return (np.arange(size) < size - size % lanes).reshape(x.shape)


@integer("RESIZE_BILINEAR")
def resize_bilinear(step: IntegerStep) -> Array:
    """Interpolation between four pixels in integers."""
    x, zero_point = step.array(0), step.zero_point(0)
    with wide():
        whole = ops.cast(x + zero_point, "int32" if step.outputs[0].dtype == "int8" else "int64")
        whole = ops.cast(interpolated(step, whole, is_delegated=step.is_delegated, xp=ops), "float32")
    return standing_for(whole - zero_point, step.in_float(x, step.array(1)))
