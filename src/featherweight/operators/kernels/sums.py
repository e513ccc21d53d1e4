"""Integer sums and differences of two tensors. Sources: LiteRT add.cc, sub.cc; XNNPACK."""

from __future__ import annotations

import math

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.families.elementwise import ADD, SUB
from featherweight.operators.fixed_point import binary_exponent, quantize_multiplier, rescale_once, rounding_shift
from featherweight.operators.record import kernel, placed

_LANES = 16  # int16 values that LiteRT's optimized kernel adds at a time


@kernel(ADD, "int8", "int16")
def add(call: Call) -> tuple[np.ndarray, ...]:
    """Sum of two tensors."""
    return (_sum(call, 1),)


@kernel(SUB, "int8", "int16")
def sub(call: Call) -> tuple[np.ndarray, ...]:
    """Difference of two tensors."""
    return (_sum(call, -1),)


def _sum(call: Call, sign: int) -> np.ndarray:
    """Returns x + sign * z: both shifted left, brought to twice the larger scale, added, rescaled (add.cc)."""
    (x_scale, x_zero), (z_scale, z_zero) = call.affine(call.input(0)), call.affine(call.input(1))
    out_scale, _ = call.affine(call.outputs[0])
    x, z = call.array(0).astype(np.int64) - x_zero, call.array(1).astype(np.int64) - z_zero
    is_byte = call.input(0).dtype == "int8"
    call = placed(call)
    if call.profile.is_delegate:
        return _delegated_sum(call, x, z, (x_scale / out_scale, z_scale / out_scale), sign)
    if call.profile.is_litert and not is_byte and call.node.attrs.get("pot_scale_int16", True):
        exponents = [binary_exponent(scale) for scale in (x_scale, z_scale, out_scale)]
        if None not in exponents:
            x_exponent, z_exponent, out_exponent = (int(exponent or 0) for exponent in exponents)
            return _shifted_sum(call, x, sign * z, (x_exponent - out_exponent, z_exponent - out_exponent))
    left = 20 if is_byte else 15
    twice = np.float64(np.float32(2) * max(x_scale, z_scale))
    factors = np.float64(x_scale) / twice, np.float64(z_scale) / twice
    total = call.rescaled(x << left, factors[0]) + sign * call.rescaled(z << left, factors[1])
    shape = np.broadcast_shapes(x.shape, z.shape)
    is_repeating = not x.size == z.size == math.prod(shape)
    if call.profile.is_vectorized and not is_byte and call.node.op == ADD and not is_repeating:
        # optimized/integer_ops/add.h, AddElementwiseInt16: whole vectors shift left before they multiply, and so round
        # the operands once; the rest, SUB, and sums that broadcast round them twice.
        once = rescale_once(x << left, *quantize_multiplier(factors[0]))
        once += rescale_once(z << left, *quantize_multiplier(factors[1]))
        is_rest = np.arange(x.size).reshape(shape) >= x.size - x.size % _LANES
        total = np.where(is_rest, total, once)
    return call.finish(call.rescaled(total, twice / np.float64(np.float32(1 << left) * out_scale)))


def _shifted_sum(call: Call, x: np.ndarray, z: np.ndarray, shifts: tuple[int, int]) -> np.ndarray:
    """LiteRT's int16 sum where all scales are powers of two: one operand is shifted right to the output's scale."""
    return call.finish(rounding_shift(x, -shifts[0]) + rounding_shift(z, -shifts[1]))


def _delegated_sum(
    call: Call, x: np.ndarray, z: np.ndarray, ratios: tuple[np.float32, np.float32], sign: int
) -> np.ndarray:
    """XNNPACK: both scales over the output's as multipliers of 21 bits, one sum, one rounding shift."""
    exponent = int(np.frexp(max(ratios))[1]) - 1
    shift = 20 - exponent
    x_multiplier, z_multiplier = (int(np.rint(np.ldexp(ratio, shift))) for ratio in ratios)
    total = x * x_multiplier + sign * z * z_multiplier
    return call.finish((total + (1 << (shift - 1))) >> shift)
