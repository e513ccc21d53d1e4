"""Integer softmax: gemmlowp's fixed-point exponential and reciprocal, or a table of float exponentials.

Sources: gemmlowp fixedpoint.h (exp_on_negative_values, one_over_one_plus_x_for_x_in_0_1), LiteRT reference/softmax.h
and optimized softmax.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featherweight.operators import on_numpy
from featherweight.operators.fixed_point import (
    INT32_MAX,
    Array,
    doubling_high_multiply,
    exp_of_negative,
    inverse_of_more,
    leading_zeros,
    quantize_multiplier,
    rounding_shift,
    whole,
    wrap_int32,
)
from featherweight.operators.kernels.interpolation import libm

# Differences have 5 integer bits, sums of exponentials 12.
_DIFFERENCE_BITS, _SUM_BITS = 5, 12


def softmax_fixed(x: np.ndarray, scale: np.float32, beta: float) -> np.ndarray:
    """Returns the softmax over the last axis in units of 1/256 above -128, int64, in 32-bit fixed point."""
    x = x.astype(np.int64)
    return normalized_fixed(exponentials_fixed(scale, beta)[x.max(axis=-1, keepdims=True) - x]) - 128


def normalized_fixed(exponential: Array, xp: Any = on_numpy) -> Array:
    """Returns exponentials with 31 fractional bits over their sum along the last axis, in units of 1/256, int64.

    Those of -1 are not counted.
    """
    counts, none = exponential >= 0, np.int64(0)
    rounded = xp.where(counts, rounding_shift(exponential, _SUM_BITS, xp), none)
    total = whole(xp.sum(rounded, axis=-1, keepdims=True), xp)
    zeros = leading_zeros(total, xp)
    reciprocal = inverse_of_more(xp.left_shift(total, zeros) - (1 << 31), xp=xp)
    exponent = (_SUM_BITS - zeros) + 31 - 8
    result = rounding_shift(doubling_high_multiply(reciprocal, exponential, xp), exponent, xp)
    return xp.where(counts, xp.clip(result, 0, 255), none)


def exponentials_fixed(scale: np.float32, beta: float) -> np.ndarray:
    """Returns exp of 0 … -255 steps with 31 fractional bits, int64; -1 for those that are too small to be counted."""
    wanted = min(float(beta) * float(scale) * (1 << (31 - _DIFFERENCE_BITS)), float(INT32_MAX))
    multiplier, shift = quantize_multiplier(wanted)
    left = int(shift)
    least = -math.floor(((1 << _DIFFERENCE_BITS) - 1) * (1 << (31 - _DIFFERENCE_BITS)) / 2.0**left)
    difference = -np.arange(256, dtype=np.int64)
    scaled = difference << left if left > 0 else difference
    exponential = exp_of_negative(doubling_high_multiply(wrap_int32(scaled), int(multiplier)), _DIFFERENCE_BITS)
    return np.where(difference >= least, exponential, -1)


def softmax_table(x: np.ndarray, scale: np.float32, beta: float) -> np.ndarray:
    """Returns the same from a table of float32 exponentials, summed one after another in float32."""
    x = x.astype(np.int32)
    exponential = exponentials_real(scale, beta)[x.max(axis=-1, keepdims=True) - x]
    total = np.zeros(exponential.shape[:-1], np.float32)
    for index in range(exponential.shape[-1]):
        total = total + exponential[..., index]
    inverse = np.float32(1) / (total * np.float32(1 / 256))
    scaled = exponential * inverse[..., np.newaxis]
    return np.clip(np.floor(scaled + np.float32(0.5)).astype(np.int64) - 128, -128, 127)


def exponentials_real(scale: np.float32, beta: float) -> np.ndarray:
    """Returns exp of 0 … -255 steps, float32."""
    return libm("exp")(-(scale * np.float32(beta)) * np.arange(256, dtype=np.float32))
