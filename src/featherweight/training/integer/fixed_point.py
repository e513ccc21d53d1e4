"""Fixed-point rescaling inside a training step: the multipliers and roundings of `profiles`, integer for integer.

All functions take and return int64 and float64 tensors, inside `wide.wide`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.operators import profiles
from featherweight.operators.profiles import Rescale
from featherweight.training.graph.registry import Array, ops

INT32_MAX = (1 << 31) - 1
_FRACTION = (1 << 52) - 1
_SQRT_HALF = 1518500250


def rescaled(x: Array, real: Array, rescale: Rescale) -> Array:
    """Returns integers times positive real factors (see `factor`) in the arithmetic of a profile, int64."""
    return _ROUNDINGS[rescale](whole(x), *quantized_multiplier(real))


def rounding(rescale: Rescale) -> Rescale:
    """Returns the twin of a function of `profiles`: (integers, multiplier, shift) → integers."""
    return _ROUNDINGS[rescale]


def factor(scales: tuple[Array, ...], divisor: Array, zero: Array) -> Array:
    """Returns ``product(scales) / divisor`` of float32 numbers in float64; `zero` as for `exact.quotient`."""
    product = real(scales[0])
    for scale in scales[1:]:
        product = product * real(scale)
    return product / (real(divisor) + real(zero) * product)


def quantized_multiplier(x: Array) -> tuple[Array, Array]:
    """Returns (multiplier, shift) of positive numbers, as `profiles.quantize_multiplier` does."""
    bits = ops.view(x, "int64")
    fraction = ops.bitwise_or(ops.bitwise_and(bits, np.int64(_FRACTION)), np.int64(_FRACTION + 1))
    multiplier = ops.right_shift(fraction + np.int64(1 << 21), np.int64(22))
    shift = ops.right_shift(bits, np.int64(52)) - np.int64(1022)
    is_whole = ops.equal(multiplier, np.int64(1 << 31))
    multiplier, shift = ops.where(is_whole, np.int64(1 << 30), multiplier), ops.where(is_whole, shift + 1, shift)
    vanishes = shift < -31
    return whole(ops.where(vanishes, np.int64(0), multiplier)), whole(ops.where(vanishes, np.int64(0), shift))


def rounded_half_away_real(x: Array) -> Array:
    """Returns float64 numbers rounded to int64, ties away from zero (Keras's floor would go through float32)."""
    magnitude = whole(ops.abs(x) + float(np.nextafter(0.5, 0.0)))
    return whole(ops.where(x < 0, -magnitude, magnitude))


def product(x: Array, y: Array | int) -> Array:
    """Returns ``round(x * y / 2**31)``, ties toward positive infinity, of int32 numbers."""
    return ops.right_shift(x * y + (1 << 30), np.int64(31))


def saturated(x: Array) -> Array:
    """Returns integers cut to 32 bits."""
    x = ops.where(x > INT32_MAX, np.int64(INT32_MAX), ops.where(x < -INT32_MAX - 1, np.int64(-INT32_MAX - 1), x))
    return whole(x)


def last_bit(x: Array) -> Array:
    """Returns the position of the highest bit of positive numbers below 2**53."""
    return ops.right_shift(ops.view(real(x), "int64"), np.int64(52)) - 1023


def inverse_square_root(x: Array) -> tuple[Array, Array]:
    """Returns (multiplier, shift) of ``1 / sqrt(x)`` of sums of 32 bits, as `ops.fixedpoint` does."""
    is_large = x >= 1 << 29
    value = whole(ops.where(is_large, ops.right_shift(x, np.int64(2)), x))
    pairs = ops.right_shift(30 - last_bit(ops.maximum(value, 2)), np.int64(1)) - 1
    right = whole(11 + whole(is_large) - pairs)
    half = ops.right_shift(ops.right_shift(ops.left_shift(value, whole(2 * pairs)), np.int64(1)) + 1, np.int64(1))
    root = ops.full_like(value, 1 << 28)
    for _ in range(5):
        cube = saturated(product(product(root, root), root) * 64)
        root = saturated((product(root, (1 << 28) + (1 << 27)) - product(half, cube)) * 8)
    multiplier = ops.left_shift(product(root, _SQRT_HALF), whole(ops.maximum(-right, 0)))
    is_one = x <= 1
    return (
        whole(ops.where(is_one, np.int64(INT32_MAX), multiplier)),
        whole(ops.where(is_one, np.int64(0), -whole(ops.maximum(right, 0)))),
    )


def whole(x: Any) -> Array:
    """Returns a value as int64 (Keras's functions of two int64 tensors may give int32)."""
    return ops.cast(ops.convert_to_tensor(x), "int64")


def real(x: Any) -> Array:
    """Returns a value as float64."""
    return ops.cast(ops.convert_to_tensor(x), "float64")


def leave(x: Array) -> Array:
    """Returns int64 integers as float32, cut to what float32 holds exactly: more than any output."""
    return ops.cast(ops.clip(x, -(1 << 23), 1 << 23), "float32")


def _high_product(x: Array, multiplier: Array, shift: Array) -> Array:
    return ops.right_shift(ops.left_shift(x, whole(ops.maximum(shift, 0))) * multiplier + (1 << 30), np.int64(31))


def _twice(x: Array, multiplier: Array, shift: Array) -> Array:
    high, right = _high_product(x, multiplier, shift), whole(ops.maximum(-shift, 0))
    is_tie_down = whole(ops.logical_and(high < 0, right > 0))
    return ops.right_shift(high + _half(right) - is_tie_down, right)


def _twice_up(x: Array, multiplier: Array, shift: Array) -> Array:
    right = whole(ops.maximum(-shift, 0))
    return ops.right_shift(_high_product(x, multiplier, shift) + _half(right), right)


def _once(x: Array, multiplier: Array, shift: Array) -> Array:
    # A factor of 2**30 or more, where this would not be positive, takes every output but zero's to its limit.
    total = whole(ops.maximum(31 - shift, 1))
    return ops.right_shift(x * multiplier + _half(total), total)


def _short(x: Array, multiplier: Array, shift: Array) -> Array:
    reduced = ops.where(
        multiplier < 0x7FFF0000, ops.right_shift(multiplier + (1 << 15), np.int64(16)), np.int64(0x7FFF)
    )
    total = whole(ops.maximum(15 - shift, 1))
    return ops.right_shift(x * whole(reduced) + _half(total), total)


def _half(bits: Array) -> Array:
    return ops.right_shift(ops.left_shift(ops.ones_like(bits), bits), np.int64(1))


_ROUNDINGS: dict[Rescale, Rescale] = {
    profiles.rescale_twice: _twice,
    profiles.rescale_twice_up: _twice_up,
    profiles.rescale_once: _once,
    profiles.rescale_short: _short,
}
