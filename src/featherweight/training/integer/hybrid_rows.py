"""How hybrid kernels quantize float activations row by row, bit for bit as `operators.kernels.rows` does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from featherweight.operators.call import Array
from featherweight.training.graph.registry import ops
from featherweight.training.integer import fixed_point
from featherweight.training.integer.int64_scope import wide
from featherweight.training.integer.straight_through import bounded, quotient, rounded_half_away, standing_for

_STEPS, _ONE = np.float32(255), np.float32(1)
# Beyond any integer of an activation.
_FAR = 1024.0
# LiteRT's own kernels round so many numbers at a time, and the rest one by one.
_LANES = 8


@dataclass(frozen=True, eq=False)
class Rows:
    """Quantized activations.

    Attributes:
        centred: integers less their row's zero point, float32, shaped like the activations.
        zero_points: float32, in a shape that broadcasts.
        scales: likewise.
    """

    centred: Array
    zero_points: Array
    scales: Array


def delegated_rows(x: Array, axes: tuple[int, ...], zero: Array) -> Rows:
    """XNNPACK: 255 steps over a range with zero, ties to even; a range for what lies along `axes`.

    `zero` is as for `straight_through.quotient`. Clips keep sums and products apart that compilers would join.
    """
    low, high = _range(x, axes)
    is_zero = ops.equal(low, high)
    steps = ops.where(is_zero, _ONE, quotient(_STEPS, ops.where(is_zero, _ONE, high - low), zero))
    least, largest = bounded(low * steps, -_FAR, 0.0), bounded(high * steps, 0.0, _FAR)
    is_low = bounded(least - 128.0, -_FAR, _FAR) + bounded(largest + 127.0, -_FAR, _FAR) > 0
    zero_points = ops.round(ops.clip(ops.where(is_low, -128.0 - least, 127.0 - largest), -128, 127))
    product = x * steps
    integers = ops.clip(ops.round(ops.stop_gradient(product)) + zero_points, -128, 127)
    return Rows(standing_for(integers - zero_points, product), zero_points, _inverse(steps, zero))


def asymmetric_rows(x: Array, axes: tuple[int, ...], zero: Array) -> Rows:
    """LiteRT's own kernels (`quantize_asymmetric`); a row is all of an image, or the last axis."""
    low, high = _range(x, axes)
    is_zero, width = ops.equal(low, high), high - low
    with wide():
        width, none, ends = fixed_point.real(width), fixed_point.real(zero), (low, high)
        real_scale = ops.where(is_zero, fixed_point.real(1), width / (255 + none * width))
        least, largest = (_over(fixed_point.real(end), real_scale, none) for end in ends)
        is_low = 128 + ops.abs(least) < 127 + ops.abs(largest)
        zero_points = ops.clip(ops.where(is_low, -128 - least, 127 - largest), -128, 127)
        zero_points = fixed_point.leave(fixed_point.rounded_half_away_real(zero_points))
        scales = ops.cast(real_scale, "float32")
    zero_points = ops.where(is_zero, 0.0, zero_points)
    product = x * _inverse(scales, zero)
    rounded = _rounded(bounded(ops.stop_gradient(product), -_FAR, _FAR), axes)
    integers = ops.clip(rounded + zero_points, -128, 127)
    return Rows(standing_for(integers - zero_points, product), zero_points, scales)


def _range(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns the ends of each row's range, which has zero in it."""
    x = ops.stop_gradient(x)
    return ops.minimum(ops.min(x, axes, keepdims=True), 0.0), ops.maximum(ops.max(x, axes, keepdims=True), 0.0)


def _inverse(x: Array, zero: Array) -> Array:
    """Returns 1 / x. The dividend must not be a constant: TensorFlow makes an approximation of a constant one's."""
    return quotient(zero + _ONE, x, zero)


def _over(dividend: Array, divisor: Array, zero: Array) -> Array:
    return dividend / (divisor + zero * dividend)


def _rounded(x: Array, axes: tuple[int, ...]) -> Array:
    """Rounds half away from zero. Vectors are rounded by adding a half, which takes the number below 0.5 to 1."""
    shape = tuple(x.shape[axis] for axis in axes)
    size = math.prod(shape)
    is_vector = ops.convert_to_tensor((np.arange(size) < size // _LANES * _LANES).reshape(shape))
    return ops.where(is_vector, ops.sign(x) * ops.floor(ops.abs(x) + 0.5), rounded_half_away(x))
