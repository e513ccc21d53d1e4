"""int16 functions by interpolation between table entries.

Sources: LiteRT reference/integer_ops/logistic.h and tanh.h, activations.cc (Prepare), softmax.h (SoftmaxInt16),
common.h (LUTPopulate, LUTLookup for int16).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from featherweight.numerics import round_half_away
from featherweight.profiles import binary_exponent, quantize_multiplier, rescale_twice

_INT16 = np.iinfo(np.int16)
_STEPS = 512
# The least exponent that counts, e**-10, and what a difference of it is scaled to.
_DEEPEST = 10.0


@functools.cache
def _sigmoid_table() -> np.ndarray:
    """Returns ``65536 * sigmoid(i / 24)``, i = 0 … 255, raised by half of what lines between entries are below it."""
    values = 65536 / (1 + np.exp(-np.arange(513) / 48))
    gap = values[1::2] - (values[:-1:2] + values[2::2]) / 2
    table = np.floor(values[:-1:2] + gap / 2 + 0.5).astype(np.int64)
    table[-1] = 65535  # the last one closes the range
    return table


def input_multiplier(scale: np.float32, *, shifts: tuple[int, ...] | None) -> tuple[int, int]:
    """Returns (multiplier, right shift) that bring integers of a scale to units of 1 / (3 * 4096).

    A power of two needs no rounding: `shifts` are the left shifts that a kernel allows for it, None for any.
    """
    exponent = binary_exponent(scale)
    left = -1 if exponent is None else 12 + exponent
    if left >= 0 and (shifts is None or left in shifts):
        return 3 << left, 0
    multiplier, right = float(scale) * 4096.0 * 3.0, 0
    while multiplier <= 32767.0 / 2.0 and right <= 30:
        right += 1
        multiplier *= 2.0
    return int(multiplier), right


def _scaled(x: np.ndarray, multiplier: int, right: int) -> np.ndarray:
    return (x.astype(np.int64) * multiplier + ((1 << right) >> 1)) >> right


def _interpolated(x: np.ndarray, bits: int, largest: int) -> np.ndarray:
    """Returns the table's value at |x| / 2**bits, with `bits` fractional bits more."""
    table = _sigmoid_table()
    whole = np.minimum(x >> bits, 254)
    value = (table[whole] << bits) + (x & ((1 << bits) - 1)) * (table[whole + 1] - table[whole])
    return np.where(x >> bits >= 255, largest, value)


def sigmoid_16(x: np.ndarray, scale: np.float32) -> np.ndarray:
    """Returns the sigmoid of int16 values in units of 1/32768, int16."""
    scaled = _scaled(x, *input_multiplier(scale, shifts=None))
    value = _interpolated(np.abs(scaled), 9, 0x7FFF << 10)
    value = np.where(scaled >= 0, value + (1 << 9), (1 << 25) - value + (1 << 9) - 1)
    return (value >> 10).astype(np.int16)


def tanh_16(x: np.ndarray, scale: np.float32) -> np.ndarray:
    """Returns the hyperbolic tangent of int16 values in units of 1/32768, int16: 2 * sigmoid(2 x) - 1."""
    scaled = _scaled(x, *input_multiplier(scale, shifts=(0, 1)))
    value = _interpolated(np.abs(scaled), 8, 0xFFFF << 8)
    value = np.where(scaled >= 0, value - (1 << 23) + (1 << 7), -value + (1 << 23) + (1 << 7) - 1)
    return (value >> 8).astype(np.int16)


def table_16(function: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> np.ndarray:
    """Returns 513 int16 entries of function on [low, high] in units of 1/32768, shifted to halve the error between.

    All in float32, as LUTPopulate.
    """
    step = np.float32((np.float32(high) - np.float32(low)) / np.float32(_STEPS))
    points = np.float32(low) + np.arange(_STEPS, dtype=np.float32) * step
    inverse = np.float32(32768)
    value, following = function(points) * inverse, function(points + step) * inverse
    middle = round_half_away(function(points + step / 2) * inverse)
    between = round_half_away((following + round_half_away(value)) / 2)
    bias = round_half_away((between - middle) / 2)
    entries = np.append(
        round_half_away(value) - bias, round_half_away(function(np.asarray([high], np.float32)) * inverse)
    )
    return np.clip(entries, _INT16.min, _INT16.max).astype(np.int64)


def look_up(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns the interpolated entries for int16 values held in int64."""
    index = 256 + (x >> 7)
    base = table[index]
    return base + (((table[index + 1] - base) * (x & 0x7F) + 64) >> 7)


def _inverse_of_more(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + x)."""
    return np.asarray(np.float32(1) / (np.float32(1) + x))


@functools.cache
def _softmax_tables() -> tuple[np.ndarray, np.ndarray]:
    """Returns the tables of exp on [-10, 0] and of 1 / (1 + x) on [0, 1]."""
    return table_16(np.exp, -_DEEPEST, 0.0), table_16(_inverse_of_more, 0.0, 1.0)


def softmax_16(x: np.ndarray, scale: np.float32, beta: float) -> np.ndarray:
    """Returns the softmax over the last axis of int16 values in units of 1/32768, int16."""
    exp_table, reciprocal_table = _softmax_tables()
    x = x.astype(np.int64)
    difference = x - x.max(axis=-1, keepdims=True)
    factor = float(scale * np.float32(beta)) / (_DEEPEST / 65535.0)
    scaled = rescale_twice(difference, *quantize_multiplier(factor))
    exponential = look_up(np.clip(scaled + 32767, _INT16.min, _INT16.max), exp_table)
    total = exponential.sum(axis=-1, keepdims=True)
    zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    # 1 / (1 + x) wants the sum shifted to [1, 2), less 1, centred.
    shifted = ((total << (zeros - 1)) + (1 << 13)) >> 14
    reciprocal = look_up(np.clip(shifted - (1 << 15) - (1 << 16), _INT16.min, _INT16.max), reciprocal_table)
    right = 31 - zeros
    values = (exponential * reciprocal + ((np.int64(1) << right) >> 1)) >> right
    return np.clip(values, 0, 32767).astype(np.int16)
