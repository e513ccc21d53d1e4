"""Functions of int8 by a table of all values, of int16 by interpolation between table entries.

Sources: LiteRT reference/integer_ops/logistic.h and tanh.h, activations.cc (Prepare), softmax.h (SoftmaxInt16),
common.h (LUTPopulate, LUTLookup for int16).
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from featherweight.graph.numerics import round_half_away
from featherweight.operators import on_numpy
from featherweight.operators.call import Call
from featherweight.operators.fixed_point import (
    Array,
    binary_exponent,
    leading_zeros,
    quantize_multiplier,
    rescale_twice,
    whole,
)

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
        return 3 << min(left, 28), 0
    # From here on, all but zero is at an end.
    multiplier, right = min(float(scale), 2.0**16) * 4096.0 * 3.0, 0
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


Function = Callable[[np.ndarray], np.ndarray]
Real = np.float32 | np.float64
RealType = type[np.float32] | type[np.float64]


@functools.cache
def libm(name: str) -> Function:
    """Returns a float32 function of this machine's C library, which LiteRT's tables come from; slow, for tables only.

    Where there is none, the function in float64, rounded: it differs from a C library's by at most a unit in the last
    place, now and then.
    """
    try:
        library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
        function = getattr(library, f"{name}f")
    except (OSError, AttributeError):
        return on_numpy.precise(np.vectorize(getattr(math, name), otypes=[np.float64]))
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return np.vectorize(function, otypes=[np.float32])


def tabulated(call: Call, function: Function, *, delegated: bool = False) -> np.ndarray:
    """Returns function(x) of int8 or int16 values through a table of float32 results (LUTPopulate, LUTLookup).

    Entries are rounded half away from zero; by the delegate, half to even once the zero point is added.
    """
    (in_scale, in_zero), (out_scale, out_zero) = call.affine(call.input(0)), call.affine(call.outputs[0])
    if call.input(0).dtype == "int16":
        low, high = in_scale * np.float32(_INT16.min), in_scale * np.float32(_INT16.max)
        spread = out_scale * np.float32(_INT16.max) - out_scale * np.float32(_INT16.min)
        table = table_16(function, low, high, np.float32(65536) / spread)
        return look_up(call.array(0).astype(np.int64), table).astype(np.int16)
    steps = (np.arange(-128, 128) - in_zero).astype(np.float32)
    with np.errstate(over="ignore"):
        scaled = function(in_scale * steps).astype(np.float32) * (np.float32(1) / out_scale)
    zero_point = np.float32(out_zero)
    entries = np.rint(scaled + zero_point) if delegated else round_half_away(scaled) + zero_point
    table = np.clip(entries, -128, 127).astype(np.int8)
    return table[call.array(0).astype(np.int16) + 128]


def table_16(function: Function, low: Real, high: Real, inverse: Real) -> np.ndarray:
    """Returns 513 int16 entries of function on [low, high] times `inverse`, shifted to halve the error between.

    All in the float type of `low`, as LUTPopulate.
    """
    dtype = np.asarray(low).dtype
    step = dtype.type((high - low) / dtype.type(_STEPS))
    points = low + np.arange(_STEPS + 1).astype(dtype) * step
    with np.errstate(over="ignore"):
        values = function(points) * inverse
        middle = round_half_away(function(points[:-1] + step / 2) * inverse)
        value = round_half_away(values[:-1])
        between = round_half_away((values[1:] + value) / 2)
        bias = round_half_away((between - middle) / 2)
        last = round_half_away(function(np.asarray([high], dtype)) * inverse)
        entries = np.append(value - bias, last)
    return np.clip(entries, _INT16.min, _INT16.max).astype(np.int64)


def look_up(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns the interpolated entries for int16 values held in int64; slopes and sums wrap at 16 bits."""
    index = 256 + (x >> 7)
    base = table[index]
    slope = (table[index + 1] - base).astype(np.int16).astype(np.int64)
    return (base + ((slope * (x & 0x7F) + 64) >> 7)).astype(np.int16).astype(np.int64)


@functools.cache
def _softmax_tables(real: RealType) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tables of exp on [-10, 0] and of 1 / (1 + x) on [0, 1], computed in a type."""
    steps, one = real(65535), real(1)
    # The kernels compute each from scales and zero points; the quotients below are not quite 10, 1 and 32768.
    unit = real(2) / steps
    inverse = real(65536) / (unit * real(_INT16.max) - unit * real(_INT16.min))
    exp = np.exp if real is np.float64 else libm("exp")
    exp_table = table_16(exp, real(_DEEPEST) / steps * -steps, real(0), inverse)
    return exp_table, table_16(lambda x: one / (one + x), real(0), one / steps * steps, inverse)


def softmax_16(x: np.ndarray, scale: np.float32, beta: float, real: RealType = np.float64) -> np.ndarray:
    """Returns the softmax over the last axis of int16 values in units of 1/32768, int16, by tables of a type."""
    exponentials, reciprocals = softmax_16_tables(scale, beta, real)
    x = x.astype(np.int64)
    return normalized_16(exponentials[x.max(axis=-1, keepdims=True) - x], reciprocals).astype(np.int16)


def normalized_16(exponential: Array, reciprocals: Array, xp: Any = on_numpy) -> Array:
    """Returns exponentials (int64) over their sum along the last axis, by the table of reciprocals, int64."""
    total = xp.sum(exponential, axis=-1, keepdims=True)
    zeros = leading_zeros(total, xp)
    # 1 / (1 + x) wants the sum shifted to [1, 2), less 1, centred.
    shifted = xp.right_shift(xp.left_shift(total, zeros - 1) + (1 << 13), np.int64(14))
    position = xp.cast(xp.clip(shifted - (1 << 16), 0, 65535), "int32")
    product = exponential * whole(xp.take(reciprocals, position, axis=0), xp)
    right = 31 - zeros
    half = xp.right_shift(xp.left_shift(xp.ones_like(right), right), np.int64(1))
    return xp.clip(xp.right_shift(product + half, right), 0, 32767)


def softmax_16_tables(scale: np.float32, beta: float, real: RealType = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for int16: exp of 0 … -65535 steps, and 1 / (1 + x) for x of 16 bits from 0 on; int64."""
    exp_table, reciprocal_table = _softmax_tables(real)
    factor = float(scale * np.float32(beta)) / (_DEEPEST / 65535.0)
    scaled = rescale_twice(-np.arange(65536, dtype=np.int64), *quantize_multiplier(factor))
    exponentials = look_up(np.clip(scaled + 32767, _INT16.min, _INT16.max), exp_table)
    return exponentials, look_up(np.arange(_INT16.min, _INT16.max + 1, dtype=np.int64), reciprocal_table)
