"""Hybrid (dynamic-range) arithmetic: kernels quantize float activations, multiply integers, and give floats.

Every row of a dense layer, or image of a convolution, gets a scale of its own. The sums of integers are exact; what
follows is a short sequence of float32 operations, given here in the order of each kernel, so that results are LiteRT's
bit for bit. Sources: LiteRT's portable_tensor_utils and hybrid kernels; XNNPACK's quantization.h and qd8-f32 kernels
(x86 with fused multiply-add); each confirmed on the installed runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.kernels.products import exact_type
from featherweight.operators.kernels.rows import Rows

# The largest magnitude of an activation less its zero point, both in [-128, 127].
_LARGEST = 255.0
_ONE, _STEPS = np.float32(1), np.float32(255)
Quantize = Callable[[np.ndarray], Rows]
# (sums, row scales, weight scales, bias), all float32 and broadcastable -> results.
Finish = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Hybrid:
    """The operands of one hybrid operator, ready to multiply.

    Attributes:
        x: activations as integers less their row's zero point, in the exact type, shaped like the activations.
        zero_points: the rows' zero points, float32, in a shape that broadcasts.
        row_scales: the rows' scales, likewise.
        weight: integers (channels, depth), in the exact type.
        weight_scales: one per channel, or one, float32.
        bias: float32; one per channel, or a zero.
        dtype: float type in which all sums are exact.
    """

    x: np.ndarray
    zero_points: np.ndarray
    row_scales: np.ndarray
    weight: np.ndarray
    weight_scales: np.ndarray
    bias: np.ndarray
    dtype: type

    def finish(self, call: Call, sums: np.ndarray, how: Finish) -> np.ndarray:
        """Returns the results of exact sums (…, channels)."""
        if self.dtype is np.float64:
            call.check_accumulator(sums, 32)
        return call.clamp(how(sums.astype(np.float32, copy=False), self.row_scales, self.weight_scales, self.bias))


def prepare_hybrid(
    call: Call,
    weight: np.ndarray,
    *,
    rows: tuple[int, ...],
    quantize: Quantize,
    x_position: int = 0,
    bias_position: int = 2,
) -> Hybrid:
    """Quantizes activations, and finds the type in which sums with a weight (channels, depth) are exact.

    `quantize` is the way of LiteRT's own kernel. `rows` has an axis for each of the activations': its size where every
    index has a scale of its own, else 1.
    """
    scales = weight_scales(call)
    x = call.array(x_position).astype(np.float32, copy=False)
    quantize = quantize_delegated if call.profile.is_delegate else quantize
    centred, zero_points, row_scales = quantize(x.reshape(math.prod(rows), -1))
    bias = call.optional(bias_position)
    bias = np.zeros(1, np.float32) if bias is None else bias.reshape(-1)
    dtype = exact_type(weight, _LARGEST, None, call)
    centred = centred.reshape(x.shape).astype(dtype, copy=False)
    return Hybrid(
        centred, zero_points.reshape(rows), row_scales.reshape(rows), weight.astype(dtype), scales, bias, dtype
    )


def weight_scales(call: Call) -> np.ndarray:
    """Returns the float32 scales of a symmetric weight.

    Raises:
        UnsupportedOp: if it has none, or a zero point.
    """
    quant = call.input(1).quant
    if quant is not None and quant.block_size is not None:
        raise call.unsupported("weights with a scale for every block are not supported")
    if quant is None or not quant.scale:
        raise call.unsupported(f"weights of type {call.input(1).dtype} without scales are not supported")
    if any(quant.zero_point):
        raise call.unsupported("weights with a zero point other than 0 are not supported")
    return np.asarray(quant.scale, np.float32)


def check_scales(call: Call, channels: int) -> None:
    """Raises where LiteRT's own kernel wants a scale for every channel and there is one: it refuses or reads past it.

    Raises:
        UnsupportedOp: then.
    """
    if not call.profile.is_delegate and weight_scales(call).size != channels:
        raise call.unsupported(
            f"hybrid weights with one scale for {channels} channels, which LiteRT's own kernel reads past, are not "
            "supported"
        )


def quantize_delegated(x: np.ndarray) -> Rows:
    """Returns rows (rows, depth) as integers less their zero point, zero points and scales, all float32.

    XNNPACK's xnn_qd8_asymmetric_quantization_params, then f32-qs8-vcvt: 255 steps over a range with zero, ties to even.
    """
    low, high = x.min(axis=1, keepdims=True, initial=0), x.max(axis=1, keepdims=True, initial=0)
    is_zero = low == high
    steps = np.where(is_zero, _ONE, _STEPS / np.where(is_zero, _ONE, high - low))
    low, high = low * steps, high * steps
    zero_points = np.where((low - 128) + (high + 127) > 0, -128 - low, 127 - high)
    zero_points = np.rint(np.clip(zero_points, -128, 127))
    q = np.clip(np.rint(x * steps) + zero_points, -128, 127)
    return q - zero_points, zero_points, _ONE / steps


def fused(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Returns float32 ``x * y + z`` with one rounding, as a fused multiply-add gives it.

    The product is exact in float64. The sum is rounded to odd there (the error of the sum, found as in Knuth's TwoSum,
    says to which side), so that rounding to float32 rounds once (Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums: proved algorithms using rounding to odd", 2008).
    """
    product, z = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
    total = np.asarray(product + z)
    back = total - product
    error = (product - (total - back)) + (z - back)
    is_even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(is_even & (error != 0), odd, total).astype(np.float32)


def delegated(sums: np.ndarray, row_scales: np.ndarray, scales: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """XNNPACK: the sum times the row's scale, then times the weight's plus the bias in one rounding."""
    return fused(sums * row_scales, scales, bias)


def joined(sums: np.ndarray, row_scales: np.ndarray, scales: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The two scales are multiplied first."""
    return sums * (scales * row_scales) + bias


def weight_first(sums: np.ndarray, row_scales: np.ndarray, scales: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The sum times the weight's scale, then the row's."""
    return sums * scales * row_scales + bias


def row_first(sums: np.ndarray, row_scales: np.ndarray, scales: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The sum times the row's scale, then the weight's."""
    return sums * row_scales * scales + bias
