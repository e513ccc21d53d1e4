"""gemmlowp's fixed-point functions: numbers of 32 or 16 bits, held in int64, of which some bits are the whole part.

Sources: gemmlowp fixedpoint.h (exp_on_negative_values, one_over_one_plus_x_for_x_in_0_1, tanh, logistic), LiteRT
common.h (GetInvSqrtQuantizedMultiplierExp, GetReciprocal, log_x_for_x_greater_than_or_equal_to_1).
"""

from __future__ import annotations

import numpy as np

from featherweight.operators.profiles import doubling_high_multiply, rounding_shift, wrap_int32

INT32_MAX = (1 << 31) - 1
# exp(-2**n) with 31 fractional bits, for n = -2 … 4.
_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXPONENTIALS = tuple(enumerate(_FACTORS, start=-2))
_SQRT_HALF = 1518500250


def shifted(x: np.ndarray, left: int | np.ndarray, bits: int = 32) -> np.ndarray:
    """Returns x * 2**left, saturated (SaturatingRoundingMultiplyByPOT with exponents of zero and more)."""
    largest = (1 << (bits - 1)) - 1
    return np.clip(x << left, -largest - 1, largest)


def leading_zeros(x: np.ndarray) -> np.ndarray:
    """Returns how many of 32 bits are zero before the first one; non-negative numbers below 2**31."""
    return 32 - np.frexp(x.astype(np.float64))[1].astype(np.int64)


def _product(x: np.ndarray, y: np.ndarray | int, bits: int) -> np.ndarray:
    """Returns ``round(x * y / 2**(bits - 1))``, saturated (SaturatingRoundingDoublingHighMul)."""
    if bits == 32:
        return doubling_high_multiply(x, y)
    return np.minimum((x * y + (1 << (bits - 2))) >> (bits - 1), (1 << (bits - 1)) - 1)


def _constant(value: int, bits: int) -> int:
    """Returns a constant of 32 bits in so many."""
    return int(rounding_shift(np.asarray(value), 32 - bits))


def exp_of_negative(x: np.ndarray, whole_bits: int, bits: int = 32) -> np.ndarray:
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


def _exp_quarter(x: np.ndarray, bits: int) -> np.ndarray:
    """Returns exp on [-1/4, 0) by a series of degree 4 around -1/8; no whole bits in and out."""
    x = x + (1 << (bits - 4))
    square = _product(x, x, bits)
    cube, fourth = _product(square, x, bits), _product(square, square, bits)
    third = _product(rounding_shift(fourth, 2) + cube, _constant(715827883, bits), bits)
    tail = rounding_shift(third + square, 1)
    centre = _constant(1895147668, bits)
    return shifted(centre + _product(x + tail, centre, bits), 0, bits)


def inverse_of_more(x: np.ndarray, bits: int = 32) -> np.ndarray:
    """Returns 1 / (1 + x) on [0, 1]; no whole bits in and out."""
    return shifted(_inverse(x, bits), 1, bits)


def _inverse(x: np.ndarray, bits: int) -> np.ndarray:
    """Returns 2 / (1 + x) by three Newton steps; no whole bits in, two out."""
    half = _half_sum(x, (1 << (bits - 1)) - 1)
    result = _constant(1515870810, bits) + _product(half, _constant(-1010580540, bits), bits)
    for _ in range(3):
        rest = (1 << (bits - 3)) - _product(half, result, bits)
        result = result + shifted(_product(result, rest, bits), 2, bits)
    return result


def _half_sum(x: np.ndarray, y: np.ndarray | int) -> np.ndarray:
    """Returns (x + y) / 2, ties away from zero (RoundingHalfSum)."""
    total = x + y
    total = total + np.where(total >= 0, 1, -1)
    return np.where(total >= 0, total >> 1, -((-total) >> 1))


def tanh_16(x: np.ndarray, whole_bits: int) -> np.ndarray:
    """Returns the hyperbolic tangent of numbers of 16 bits, with 15 fractional bits."""
    exponential = exp_of_negative(-np.abs(x), whole_bits + 1, 16)
    values = shifted(_inverse(exponential, 16) - (1 << 13), 2, 16)
    return np.sign(x) * values


def logistic_16(x: np.ndarray, whole_bits: int) -> np.ndarray:
    """Returns the sigmoid of numbers of 16 bits, with 15 fractional bits."""
    values = inverse_of_more(exp_of_negative(-np.abs(x), whole_bits, 16), 16)
    return np.where(x == 0, 1 << 14, np.where(x > 0, values, (1 << 15) - 1 - values))


def reciprocal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (fraction of 31 bits, bits) of positive integers: ``1 / x = fraction * 2**(-31 - bits)``."""
    zeros = leading_zeros(x)
    return inverse_of_more((x << zeros) - (1 << 31)), 31 - zeros


def inverse_square_root(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (multiplier, shift) of ``1 / sqrt(x)`` of integers; zero counts as one."""
    right = np.full(x.shape, 11, np.int64)
    value = x.astype(np.int64)
    while (is_large := value >= 1 << 29).any():
        right += is_large
        value = np.where(is_large, value >> 2, value)
    pairs = (leading_zeros(np.maximum(value, 2)) - 1) // 2 - 1
    right -= pairs
    half = rounding_shift((value << (2 * pairs)) >> 1, 1)
    # Newton steps from one, in numbers of 3 whole bits.
    root = np.full(x.shape, 1 << 28, np.int64)
    for _ in range(5):
        cube = shifted(_product(_product(root, root, 32), root, 32), 6)
        root = shifted(_product(root, (1 << 28) + (1 << 27), 32) - _product(half, cube, 32), 3)
    multiplier = _product(root, _SQRT_HALF, 32) << np.maximum(-right, 0)
    return np.where(x <= 1, INT32_MAX, multiplier), np.where(x <= 1, 0, -np.maximum(right, 0))


def log_of_more(x: np.ndarray, whole_bits: int, out_bits: int) -> np.ndarray:
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


def divided(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns ``sums / counts``, ties away from zero."""
    halves = counts // 2
    return np.where(sums > 0, (sums + halves) // counts, -((halves - sums) // counts))
