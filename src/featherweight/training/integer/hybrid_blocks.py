"""Hybrid dense layers whose int4 weights have a scale for every block of a row, in XNNPACK's arithmetic.

`operators.kernels.blocks` names the sources; `ptq.constants` stores the same integers. A block's scale is its largest
weight over 7 at every moment: it is no variable. Casts to 16 bits and back are made of bits, because XLA leaves such
pairs out.
"""

from __future__ import annotations

import numpy as np

from featherweight.graph.numerics import integer_range
from featherweight.operators.call import Array
from featherweight.training.graph.registry import ops
from featherweight.training.integer.hybrid_rows import Rows
from featherweight.training.integer.int64_scope import real_product_sum
from featherweight.training.integer.step import IntegerStep, quantized_weight
from featherweight.training.integer.straight_through import bounded, quotient, standing_for

# So many weights at a time give up their zero point's share.
_PACKED = 16
# What makes a signed activation unsigned.
_UNSIGNED = 128.0
# Keeps a product from being contracted with the sum that follows; no activation is as large.
_FAR = 1e38
# Mantissa bits that float32 has more than the type; float16: the smallest normal and subnormal numbers.
_BEYOND_FLOAT16, _BEYOND_BFLOAT16 = 13, 16
_NORMAL, _SUBNORMAL = 2.0**-14, 2.0**-24


def block_products(step: IntegerStep, rows: Rows, size: int, bias: Array) -> Array:
    """Returns rows (…, depth) times the step's weight (out, depth) in blocks of a size, plus the bias."""
    weight, scales = quantized_blocks(step, size)
    blocks = range(scales.shape[1])
    rounded_scales = _shortened(scales, _BEYOND_BFLOAT16)
    zero_points = rows.zero_points + _UNSIGNED
    unsigned = ops.stop_gradient(rows.centred) + zero_points
    integers = ops.stop_gradient(weight)
    value = bounded(_share(integers, rounded_scales, size) * zero_points, -_FAR, _FAR)
    for block in blocks:
        part = slice(block * size, (block + 1) * size)
        sums = ops.matmul(unsigned[..., part], ops.transpose(integers[:, part]))
        value = real_product_sum(sums, rounded_scales[:, block], value)
    value = bounded(value * rows.scales, -_FAR, _FAR) + ops.stop_gradient(bias)
    real = weight * ops.repeat(scales, size, axis=1)
    return standing_for(value, ops.matmul(rows.centred * rows.scales, ops.transpose(real)) + bias)


def quantized_blocks(step: IntegerStep, size: int) -> tuple[Array, Array]:
    """Returns the weight's integers (out, depth), and the float16 scales (out, blocks) as float32."""
    weight, dtype = step.array(1), step.input(1).dtype
    blocks = ops.reshape(weight, (weight.shape[0], -1, size))
    largest = ops.max(ops.abs(ops.stop_gradient(blocks)), axis=-1)
    qmax = np.float32(integer_range(dtype, narrow=True)[1])
    scales = _as_float16(ops.where(largest > 0, quotient(largest, qmax, step.zero), 1.0))
    return ops.reshape(quantized_weight(blocks, scales[..., None], dtype, step.zero), weight.shape), scales


def _share(weight: Array, scales: Array, size: int) -> Array:
    """Returns what a zero point of -1 adds to each row of the weight; its products are exact."""
    sums = ops.sum(ops.reshape(weight, (weight.shape[0], -1, _PACKED)), axis=-1)
    total = ops.zeros_like(sums[:, 0])
    for index in range(sums.shape[1]):
        total = total - sums[:, index] * scales[:, index * _PACKED // size]
    return total


def _as_float16(x: Array) -> Array:
    """Returns positive numbers rounded to float16, no smaller than its smallest."""
    subnormal = bounded(ops.round(x * (1 / _SUBNORMAL)), 1.0, float(1 << 10)) * _SUBNORMAL
    return ops.where(x < _NORMAL, subnormal, _shortened(x, _BEYOND_FLOAT16))


def _shortened(x: Array, count: int) -> Array:
    """Rounds the last bits of positive float32 mantissas away, ties to even."""
    bits = ops.view(x, "int32")
    half = (1 << (count - 1)) - 1 + ops.bitwise_and(ops.right_shift(bits, count), 1)
    return ops.view(ops.bitwise_and(bits + half, -(1 << count)), "float32")
