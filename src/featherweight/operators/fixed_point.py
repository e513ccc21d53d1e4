"""Fixed-point arithmetic: real factors as multiplier and shift, the rescalings of integers, and gemmlowp's functions.

Numbers of 32 or 16 bits are held in int64; of gemmlowp's some bits are the whole part. All functions compute over an
array namespace `xp`: NumPy, or one of a Keras backend in which 64 bits stay 64 bits.

Sources: gemmlowp fixedpoint.h (exp_on_negative_values, one_over_one_plus_x_for_x_in_0_1, tanh, logistic), LiteRT
quantization_util and common.h (QuantizeMultiplier, GetInvSqrtQuantizedMultiplierExp, GetReciprocal,
log_x_for_x_greater_than_or_equal_to_1), ruy's x86 kernels; each was confirmed integer for integer on the installed
runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from featherweight.operators import on_numpy

Array = Any
"""Integers: a NumPy array, or a tensor of the namespace's backend."""

# (integers, multiplier in [2**30, 2**31), shift, namespace) -> round(integers * multiplier * 2**(shift - 31)), int64.
Rescale = Callable[..., Array]

INT32_MAX = (1 << 31) - 1
# exp(-2**n) with 31 fractional bits, for n = -2 … 4.
_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXPONENTIALS = tuple(enumerate(_FACTORS, start=-2))
_SQRT_HALF = 1518500250
# Bits of a float64: of its fraction, and what its exponent is above that of `frexp`.
_FRACTION_BITS, _EXPONENT_BIAS = 52, 1022


def whole(x: Any, xp: Any = on_numpy) -> Array:
    """Returns a value as int64."""
    return xp.cast(xp.convert_to_tensor(x), "int64")


def real(x: Any, xp: Any = on_numpy) -> Array:
    """Returns a value as float64."""
    return xp.cast(xp.convert_to_tensor(x), "float64")


def quantize_multiplier(factor: Any, xp: Any = on_numpy) -> tuple[Array, Array]:
    """Returns (multiplier, shift), int64, with ``factor = multiplier * 2**(shift - 31)``, multiplier in [2**30, 2**31).

    The fraction is rounded half away from zero to 31 bits; numbers below 2**-32 become zero, as LiteRT's
    QuantizeMultiplier does. It is read from the bits of the number, which no compiler approximates.

    >>> [part.item() for part in quantize_multiplier(0.75)]
    [1610612736, 0]
    """
    bits = xp.view(real(factor, xp), "int64")
    fraction = xp.bitwise_or(xp.bitwise_and(bits, np.int64((1 << _FRACTION_BITS) - 1)), np.int64(1 << _FRACTION_BITS))
    multiplier = xp.right_shift(fraction + (1 << 21), np.int64(22))
    shift = xp.bitwise_and(xp.right_shift(bits, np.int64(_FRACTION_BITS)), np.int64(0x7FF)) - _EXPONENT_BIAS
    is_whole = xp.equal(multiplier, np.int64(1 << 31))
    multiplier = xp.where(is_whole, np.int64(1 << 30), multiplier)
    shift = xp.where(is_whole, shift + 1, shift)
    vanishes = shift < -31
    signed = xp.where(bits < 0, -multiplier, multiplier)
    return xp.where(vanishes, np.int64(0), signed), xp.where(vanishes, np.int64(0), shift)


def binary_exponent(scale: np.float32) -> int | None:
    """Returns the exponent of a scale that LiteRT takes for a power of two: within 1e-3 of one (CheckedLog2)."""
    exponent = math.log2(float(scale))
    return round(exponent) if abs(exponent - round(exponent)) < 1e-3 else None


def wrap_int32(x: Array, xp: Any = on_numpy) -> Array:
    """Returns what an int32 register would hold, as int64."""
    return xp.cast(xp.cast(x, "int32"), "int64")


def truncated(x: np.ndarray) -> np.ndarray:
    """Returns floats as int32, held in int64: what doesn't fit, and NaN, is the least integer (x86-64's cvttss2si).

    >>> truncated(np.array([-1.5, 3e9, np.nan])).tolist()
    [-1, -2147483648, -2147483648]
    """
    fits = (x >= -(2.0**31)) & (x < 2.0**31)
    return np.where(fits, x, -(2.0**31)).astype(np.int64)


def doubling_high_multiply(x: Array, y: Array | int, xp: Any = on_numpy) -> Array:
    """Returns ``round(x * y / 2**31)``, ties toward positive infinity, saturated: int32 numbers held in int64.

    gemmlowp's SaturatingRoundingDoublingHighMul.
    """
    return xp.minimum(_high_half(x * y, xp), np.int64(INT32_MAX))


def _high_half(product: Array, xp: Any) -> Array:
    """Returns ``round(product / 2**31)``, ties toward positive infinity."""
    # gemmlowp adds 1 - 2**30 to a negative product and divides by 2**31 toward zero. The floor of (p + 2**30) / 2**31
    # is the same number.
    return xp.right_shift(product + (1 << 30), np.int64(31))


def rounding_shift(x: Array, exponent: Array | int, xp: Any = on_numpy) -> Array:
    """Returns ``x / 2**exponent``, ties away from zero (gemmlowp's RoundingDivideByPOT)."""
    exponent = whole(exponent, xp)
    is_tie_down = xp.cast(xp.logical_and(x < 0, exponent > 0), "int64")
    return xp.right_shift(x + _half(exponent, xp) - is_tie_down, exponent)


def _half(bits: Array, xp: Any) -> Array:
    """Returns half of ``2**bits``, rounded down."""
    return xp.right_shift(xp.left_shift(xp.ones_like(bits), bits), np.int64(1))


def rescale_twice(x: Array, multiplier: Array, shift: Array, xp: Any = on_numpy) -> Array:
    """Rescales with two roundings: the high half of the product, then a shift with ties away from zero."""
    return rounding_shift(_high_product(x, multiplier, shift, xp), xp.maximum(-shift, np.int64(0)), xp)


def rescale_twice_up(x: Array, multiplier: Array, shift: Array, xp: Any = on_numpy) -> Array:
    """Rescales with two roundings, both with ties toward positive infinity."""
    right = xp.maximum(-shift, np.int64(0))
    return xp.right_shift(_high_product(x, multiplier, shift, xp) + _half(right, xp), right)


def rescale_once(x: Array, multiplier: Array, shift: Array, xp: Any = on_numpy) -> Array:
    """Rescales with one rounding, ties toward positive infinity.

    ``(x * multiplier + 2**(30 - shift)) >> (31 - shift)``
    """
    # Factors of 2**30 and more take every output but zero's to its limit.
    total = xp.maximum(31 - shift, np.int64(1))
    return xp.right_shift(whole(x, xp) * multiplier + _half(total, xp), total)


def rescale_once_even(x: Array, multiplier: Array, shift: Array, xp: Any = on_numpy) -> Array:
    """Rescales with one rounding, ties to even: with a power of two, an accumulator that is shifted.

    (ESP-DL's shift_and_round_half_even in dl_tool.cpp.)

    >>> rescale_once_even(np.array([-3, -1, 1, 3, 5]), np.int64(1 << 30), np.int64(0)).tolist()
    [-2, 0, 0, 2, 2]
    """
    total = xp.maximum(31 - shift, np.int64(1))
    product = whole(x, xp) * multiplier
    floor = xp.right_shift(product, total)
    # One less than half, and one more where what lies below is odd: ties go to the even one.
    odd = xp.bitwise_and(floor, np.int64(1))
    return xp.right_shift(product + _half(total, xp) - 1 + odd, total)


def rescale_short(x: Array, multiplier: Array, shift: Array, xp: Any = on_numpy) -> Array:
    """Rescales 64-bit accumulators with a multiplier of 16 bits and one rounding, ties toward positive infinity."""
    rounded = xp.right_shift(multiplier + (1 << 15), np.int64(16))
    reduced = xp.where(multiplier < 0x7FFF0000, rounded, np.int64(0x7FFF))
    # A factor of 2**14 or more has nothing to round.
    right, left = xp.maximum(15 - shift, np.int64(0)), xp.maximum(shift - 15, np.int64(0))
    return xp.right_shift(whole(x, xp) * xp.left_shift(reduced, left) + _half(right, xp), right)


def _high_product(x: Array, multiplier: Array, shift: Array, xp: Any) -> Array:
    """Returns the rounded high half of ``(x << max(shift, 0)) * multiplier``."""
    x = whole(x, xp)
    if xp is not on_numpy or np.any(shift > 0):
        x = wrap_int32(xp.left_shift(x, xp.maximum(shift, np.int64(0))), xp)
    # Multipliers are below 2**31, so that nothing saturates.
    return _high_half(x * multiplier, xp)


def divided(sums: Array, counts: Array, xp: Any = on_numpy) -> Array:
    """Returns ``sums / counts`` of integers, ties away from zero."""
    halves = xp.floor_divide(counts, 2)
    return xp.where(sums > 0, xp.floor_divide(sums + halves, counts), -xp.floor_divide(halves - sums, counts))


def shifted(x: Array, left: int | Array, bits: int = 32, xp: Any = on_numpy) -> Array:
    """Returns x * 2**left, saturated (SaturatingRoundingMultiplyByPOT with exponents of zero and more)."""
    largest = (1 << (bits - 1)) - 1
    return xp.clip(xp.left_shift(x, whole(left, xp)), -largest - 1, largest)


def leading_zeros(x: Array, xp: Any = on_numpy) -> Array:
    """Returns how many of 32 bits are zero before the first one; non-negative numbers below 2**31."""
    exponent = xp.right_shift(xp.view(real(x, xp), "int64"), np.int64(_FRACTION_BITS)) - _EXPONENT_BIAS
    return xp.where(x > 0, 32 - exponent, np.int64(32))


def _product(x: Array, y: Array | int, bits: int, xp: Any = on_numpy) -> Array:
    """Returns ``round(x * y / 2**(bits - 1))``, saturated (SaturatingRoundingDoublingHighMul)."""
    if bits == 32:
        return doubling_high_multiply(x, y, xp)
    return xp.minimum(xp.right_shift(x * y + (1 << (bits - 2)), np.int64(bits - 1)), np.int64((1 << (bits - 1)) - 1))


def _constant(value: int, bits: int) -> int:
    """Returns a constant of 32 bits in so many."""
    return int(rounding_shift(np.asarray(value), 32 - bits))


def exp_of_negative(x: Array, whole_bits: int, bits: int = 32) -> Array:
    """Returns exp of numbers up to zero of so many whole bits; no whole bits come out."""
    fraction = bits - 1 - whole_bits
    quarter = 1 << (fraction - 2)
    rest = (x & (quarter - 1)) - quarter
    result = _exp_quarter(shifted(rest, whole_bits, bits), bits)
    remainder = rest - x
    for exponent, factor in _EXPONENTIALS:
        if exponent < whole_bits:
            has = remainder & (1 << (fraction + exponent))
            result = np.where(has != 0, _product(result, _constant(factor, bits), bits), result)
    return np.where(x == 0, (1 << (bits - 1)) - 1, result)


def _exp_quarter(x: Array, bits: int) -> Array:
    """Returns exp on [-1/4, 0) by a series of degree 4 around -1/8; no whole bits in and out."""
    x = x + (1 << (bits - 4))
    square = _product(x, x, bits)
    cube, fourth = _product(square, x, bits), _product(square, square, bits)
    third = _product(rounding_shift(fourth, 2) + cube, _constant(715827883, bits), bits)
    tail = rounding_shift(third + square, 1)
    centre = _constant(1895147668, bits)
    return shifted(centre + _product(x + tail, centre, bits), 0, bits)


def inverse_of_more(x: Array, bits: int = 32, xp: Any = on_numpy) -> Array:
    """Returns 1 / (1 + x) on [0, 1]; no whole bits in and out."""
    return shifted(_inverse(x, bits, xp), 1, bits, xp)


def _inverse(x: Array, bits: int, xp: Any = on_numpy) -> Array:
    """Returns 2 / (1 + x) by three Newton steps; no whole bits in, two out."""
    half = _half_sum(x, (1 << (bits - 1)) - 1, xp)
    result = _constant(1515870810, bits) + _product(half, _constant(-1010580540, bits), bits, xp)
    for _ in range(3):
        rest = (1 << (bits - 3)) - _product(half, result, bits, xp)
        result = result + shifted(_product(result, rest, bits, xp), 2, bits, xp)
    return result


def _half_sum(x: Array, y: Array | int, xp: Any = on_numpy) -> Array:
    """Returns (x + y) / 2, ties away from zero (RoundingHalfSum)."""
    total, one = x + y, np.int64(1)
    total = total + xp.where(total >= 0, one, -one)
    return xp.where(total >= 0, xp.right_shift(total, one), -xp.right_shift(-total, one))


def tanh_16(x: Array, whole_bits: int) -> Array:
    """Returns the hyperbolic tangent of numbers of 16 bits, with 15 fractional bits."""
    exponential = exp_of_negative(-np.abs(x), whole_bits + 1, 16)
    values = shifted(_inverse(exponential, 16) - (1 << 13), 2, 16)
    return np.sign(x) * values


def logistic_16(x: Array, whole_bits: int) -> Array:
    """Returns the sigmoid of numbers of 16 bits, with 15 fractional bits."""
    values = inverse_of_more(exp_of_negative(-np.abs(x), whole_bits, 16), 16)
    return np.where(x == 0, 1 << 14, np.where(x > 0, values, (1 << 15) - 1 - values))


def reciprocal(x: Array) -> tuple[Array, Array]:
    """Returns (fraction of 31 bits, bits) of positive integers: ``1 / x = fraction * 2**(-31 - bits)``."""
    zeros = leading_zeros(x)
    return inverse_of_more((x << zeros) - (1 << 31)), 31 - zeros


def inverse_square_root(x: Array, xp: Any = on_numpy) -> tuple[Array, Array]:
    """Returns (multiplier, shift) of ``1 / sqrt(x)`` of sums of 32 bits; zero counts as one."""
    x = whole(x, xp)
    is_large = x >= 1 << 29
    value = xp.where(is_large, xp.right_shift(x, np.int64(2)), x)
    pairs = xp.right_shift(leading_zeros(xp.maximum(value, np.int64(2)), xp) - 1, np.int64(1)) - 1
    right = xp.cast(is_large, "int64") + 11 - pairs
    half = rounding_shift(xp.right_shift(xp.left_shift(value, 2 * pairs), np.int64(1)), 1, xp)
    # Newton steps from one, in numbers of 3 whole bits.
    root = xp.full_like(value, 1 << 28)
    for _ in range(5):
        cube = shifted(_product(_product(root, root, 32, xp), root, 32, xp), 6, 32, xp)
        step = _product(root, (1 << 28) + (1 << 27), 32, xp) - _product(half, cube, 32, xp)
        root = shifted(step, 3, 32, xp)
    multiplier = xp.left_shift(_product(root, _SQRT_HALF, 32, xp), xp.maximum(-right, np.int64(0)))
    is_one, none = x <= 1, np.int64(0)
    return xp.where(is_one, np.int64(INT32_MAX), multiplier), xp.where(is_one, none, -xp.maximum(right, none))


def log_of_more(x: Array, whole_bits: int, out_bits: int) -> Array:
    """Returns the natural logarithm of numbers of one and more; whole bits of what goes in and comes out."""
    wide = out_bits + 1  # a bit more, against saturation
    quarter = 1 << (29 - wide)
    zeros = leading_zeros(x)
    lower = shifted(doubling_high_multiply(shifted(x, zeros - 1), _SQRT_HALF), 1)
    lower_power = shifted(shifted(whole_bits - zeros, 31 - wide) + quarter, 0)
    zeros = leading_zeros(doubling_high_multiply(x, _SQRT_HALF)) - 1
    upper = shifted(x, zeros)
    upper_power = shifted(shifted(whole_bits - zeros, 31 - wide) - quarter, 0)
    ratio, power = np.minimum(lower, upper), np.maximum(lower_power, upper_power)
    # What is left is near sqrt(sqrt(1/2)): its logarithm is a quotient of polynomials.
    centre = 1805811301
    p, q = _half_sum(ratio, centre), wrap_int32((ratio - centre) * 2)
    square = doubling_high_multiply(q, q)
    above = doubling_high_multiply(doubling_high_multiply(q, square), 117049297) + doubling_high_multiply(q, ratio)
    below = doubling_high_multiply(p, 1057819769 + q + doubling_high_multiply(square, 127690142))
    below = below + doubling_high_multiply(q, 638450708)
    quotient = doubling_high_multiply(rounding_shift(above, wide), inverse_of_more(below))
    return shifted(doubling_high_multiply(power, 1488522236) + quotient, 1)
