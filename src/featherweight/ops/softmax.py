"""Integer softmax: gemmlowp's fixed-point exponential and reciprocal, or a table of float exponentials.

Sources: gemmlowp fixedpoint.h (exp_on_negative_values, one_over_one_plus_x_for_x_in_0_1), LiteRT reference/softmax.h
and optimized softmax.
"""

from __future__ import annotations

import math

import numpy as np

from featherweight.profiles import doubling_high_multiply, quantize_multiplier, rounding_shift, wrap_int32

_INT32_MAX = (1 << 31) - 1
# Differences have 5 integer bits, sums of exponentials 12.
_DIFFERENCE_BITS, _SUM_BITS = 5, 12
# exp(-2**n) with 31 fractional bits, for n = -2 … 4.
_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXPONENTIALS = tuple(enumerate(_FACTORS, start=-2))


def softmax_fixed(x: np.ndarray, scale: np.float32, beta: float) -> np.ndarray:
    """Returns the softmax over the last axis in units of 1/256 above -128, int64, in 32-bit fixed point."""
    x = x.astype(np.int64)
    wanted = min(float(beta) * float(scale) * (1 << (31 - _DIFFERENCE_BITS)), float(_INT32_MAX))
    multiplier, shift = quantize_multiplier(wanted)
    left = int(shift)
    least = -math.floor(((1 << _DIFFERENCE_BITS) - 1) * (1 << (31 - _DIFFERENCE_BITS)) / 2.0**left)
    difference = x - x.max(axis=-1, keepdims=True)
    counts = difference >= least
    scaled = difference << left if left > 0 else difference
    exponential = _exp(doubling_high_multiply(wrap_int32(scaled), int(multiplier)))
    total = np.where(counts, rounding_shift(exponential, _SUM_BITS), 0).sum(axis=-1, keepdims=True)
    zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    reciprocal = _reciprocal((total << zeros) - (1 << 31))
    exponent = (_SUM_BITS - zeros) + 31 - 8
    result = rounding_shift(doubling_high_multiply(reciprocal, exponential), exponent) - 128
    return np.where(counts, np.clip(result, -128, 127), -128)


def _exp(x: np.ndarray) -> np.ndarray:
    """Returns exp of non-positive numbers of 5 integer bits, with 31 fractional bits."""
    fraction = 31 - _DIFFERENCE_BITS
    quarter = 1 << (fraction - 2)
    rest = (x & (quarter - 1)) - quarter
    result = _exp_quarter(wrap_int32(rest << _DIFFERENCE_BITS))
    remainder = rest - x
    for exponent, factor in _EXPONENTIALS:
        has = remainder & (1 << (fraction + exponent))
        result = np.where(has != 0, doubling_high_multiply(result, factor), result)
    return np.where(x == 0, _INT32_MAX, result)


def _exp_quarter(x: np.ndarray) -> np.ndarray:
    """Returns exp on [-1/4, 0) by a series of degree 4 around -1/8; 31 fractional bits in and out."""
    x = x + (1 << 28)
    square = doubling_high_multiply(x, x)
    cube, fourth = doubling_high_multiply(square, x), doubling_high_multiply(square, square)
    third = doubling_high_multiply(rounding_shift(fourth, 2) + cube, 715827883)
    tail = rounding_shift(third + square, 1)
    return 1895147668 + doubling_high_multiply(np.asarray(x + tail), 1895147668)


def _reciprocal(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + x) on [0, 1] by three Newton steps; 31 fractional bits in and out."""
    total = x + _INT32_MAX
    half = _halved(total + np.where(total >= 0, 1, -1))
    result = 1515870810 + doubling_high_multiply(half, -1010580540)
    for _ in range(3):
        rest = (1 << 29) - doubling_high_multiply(half, result)
        result = result + _shifted(doubling_high_multiply(result, rest), 2)
    return _shifted(result, 1)


def _halved(x: np.ndarray) -> np.ndarray:
    """Halves toward zero."""
    return np.where(x >= 0, x >> 1, -((-x) >> 1))


def _shifted(x: np.ndarray, bits: int) -> np.ndarray:
    """Shifts left and saturates at 32 bits."""
    return np.clip(x << bits, -_INT32_MAX - 1, _INT32_MAX)


def softmax_table(x: np.ndarray, scale: np.float32, beta: float) -> np.ndarray:
    """Returns the same from a table of float32 exponentials, summed one after another in float32."""
    steps = np.arange(256, dtype=np.float32)
    table = np.exp(-(scale * np.float32(beta)) * steps).astype(np.float32)
    x = x.astype(np.int32)
    exponential = table[x.max(axis=-1, keepdims=True) - x]
    total = np.zeros(exponential.shape[:-1], np.float32)
    for index in range(exponential.shape[-1]):
        total = total + exponential[..., index]
    inverse = np.float32(1) / (total * np.float32(1 / 256))
    scaled = exponential * inverse[..., np.newaxis]
    return np.clip(np.floor(scaled + np.float32(0.5)).astype(np.int64) - 128, -128, 127)
