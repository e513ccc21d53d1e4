"""Normalizations over the last axis.

Sources: LiteRT reference/integer_ops l2normalization.h and log_softmax.h, optimized_ops.h; fixed outputs: TensorFlow
Lite 8-bit quantization specification.
"""

from __future__ import annotations

import math

import numpy as np

from featherweight.operators.call import Array, Call
from featherweight.operators.fixed_point import (
    INT32_MAX,
    exp_of_negative,
    inverse_square_root,
    log_of_more,
    quantize_multiplier,
    rescale_twice,
    rounding_shift,
)
from featherweight.operators.function_limits import refused_differences
from featherweight.operators.kernels.interpolation import libm
from featherweight.operators.record import Op, definition, kernel, placed, register

register(
    Op(
        "LOG_SOFTMAX",
        "LogSoftmaxOptions",
        axes="normalization",
        fixed_output={"int8": (16 / 256, 127)},
        versions={"int8": 2},
        refused=refused_differences,
    )
)
register(
    Op(
        "L2_NORMALIZATION",
        "L2NormOptions",
        axes="normalization",
        fixed_output={"int8": (1 / 128, 0)},
        versions={"int8": 2},
        delegated=lambda call: call.input(0).is_float,
    )
)

# Whole bits of differences, of sums of exponentials, and of outputs.
_DIFFERENCE_BITS, _SUM_BITS, _OUTPUT_BITS = 5, 12, 4
_EPSILON = 1e-6


@kernel("L2_NORMALIZATION", "int8")
def l2_normalization(call: Call) -> tuple[np.ndarray, ...]:
    """x / sqrt(sum of squares) by a reciprocal root in fixed point; the output has 7 fractional bits."""
    x = call.array(0).astype(np.int64) - call.affine(call.input(0))[1]
    squares = np.square(x).sum(axis=-1, keepdims=True)
    call.check_accumulator(squares, 32)
    multiplier, shift = inverse_square_root(squares)
    values = placed(call).profile.rescale(x, multiplier, shift + 7)
    return (np.clip(values, -128, 127).astype(np.int8),)


@definition("L2_NORMALIZATION", "float32")
def l2_normalization_of_reals(call: Call) -> tuple[Array, ...]:
    """x over its Euclidean norm along the last axis, at least 1e-6 (LiteRT reference/l2normalization.h)."""
    return (call.clamp(call.xp.normalize(call.array(0), axis=-1, epsilon=_EPSILON)),)


@kernel("LOG_SOFTMAX", "int8")
def log_softmax(call: Call) -> tuple[np.ndarray, ...]:
    """Logarithm of the softmax: fixed point in the reference, a table of exponentials elsewhere."""
    scale, _ = call.affine(call.input(0))
    is_reference = call.profile.is_reference
    values = _log_softmax_fixed(call.array(0), scale) if is_reference else _log_softmax_table(call.array(0), scale)
    return (np.clip(values, -128, 127).astype(np.int8),)


def _log_softmax_fixed(x: np.ndarray, scale: np.float32) -> np.ndarray:
    one = 1 << (31 - _DIFFERENCE_BITS)
    multiplier, shift = quantize_multiplier(min(max(float(scale) * one, 1.0), float(INT32_MAX)))
    left = int(shift)
    least = -math.floor(((1 << _DIFFERENCE_BITS) - 1) * one / 2.0**left)
    x = x.astype(np.int64)
    difference = x - x.max(axis=-1, keepdims=True)
    counts = difference >= least
    scaled = rescale_twice(np.where(counts, difference, 0), multiplier, shift)
    exponential = rounding_shift(exp_of_negative(scaled, _DIFFERENCE_BITS), _SUM_BITS)
    total = np.where(counts, exponential, 0).sum(axis=-1, keepdims=True)
    log_sum = log_of_more(total, _SUM_BITS, _DIFFERENCE_BITS)
    # What is below the least number of 5 whole bits, once the sum is subtracted, is below every output too.
    divisor, divisor_shift = quantize_multiplier((1 << (31 - left)) / float(multiplier))
    smallest = np.maximum(least - 1, rescale_twice(log_sum - (1 << 31), divisor, divisor_shift))
    values = rounding_shift(scaled - log_sum, 31 - _DIFFERENCE_BITS - _OUTPUT_BITS) + 127
    return np.where(difference > smallest, values, -128)


def _log_softmax_table(x: np.ndarray, scale: np.float32) -> np.ndarray:
    table = libm("exp")(-scale * np.arange(256, dtype=np.float32))
    x = x.astype(np.int32)
    largest = x.max(axis=-1, keepdims=True)
    exponential = table[largest - x]
    total = np.zeros((*x.shape[:-1], 1), np.float32)
    for index in range(x.shape[-1]):
        total = total + exponential[..., index : index + 1]
    out_scale = np.float32(16 / 256)
    offset = (scale * largest.astype(np.float32) + libm("log")(total)) / out_scale
    return np.rint((scale / out_scale) * x.astype(np.float32) - offset).astype(np.int64) + 127


@definition("LOG_SOFTMAX", "float32")
def log_softmax_of_reals(call: Call) -> tuple[Array, ...]:
    """Logarithm of the softmax over the last axis."""
    return (call.xp.log_softmax(call.array(0), axis=-1),)
